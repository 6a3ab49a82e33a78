/** What HTTP asks for where a path is called by a method that it has no call for (RFC 9110, 9.3.2, 9.3.7 and 15.5.6). */
import type { IncomingMessage, ServerResponse } from 'node:http'

/** Of moleculer-web's aliases; `match` answers the path's parameters, or false. */
export interface Alias {
  method: string
  match(path: string): object | false
}

type Routed = IncomingMessage & { parsedUrl: string; $service: { aliases: Alias[] } }

/**
 * Middleware of the gateway: OPTIONS is answered with the methods of the path, a method that it does not have is refused.
 * Left to itself the gateway makes the call that a preflight only asks about.
 */
export function guardMethods(request: IncomingMessage, response: ServerResponse, next: (error?: Error) => void): void {
  const { method = '', parsedUrl, $service } = request as Routed
  const allowed = methodsOf($service.aliases, parsedUrl)
  if (allowed.length === 0 || (allowed.includes(method) && method !== 'OPTIONS')) {
    next()
    return
  }
  response.setHeader('Allow', allowed.join(', '))
  if (method === 'OPTIONS') {
    response.writeHead(204).end()
    return
  }
  const message = `there is no ${method} of this path; it has ${allowed.join(', ')}`
  next(Object.assign(new Error(message), { code: 405, type: 'METHOD_NOT_ALLOWED' }))
}

/** Every call that reads answers HEAD too, and every path OPTIONS. Empty for a path that there is not. */
function methodsOf(aliases: Alias[], path: string): string[] {
  const own = aliases.filter((alias) => alias.match(path)).map(({ method }) => method)
  if (own.length === 0) return []
  return [...new Set([...own, ...(own.includes('GET') ? ['HEAD'] : []), 'OPTIONS'])]
}
