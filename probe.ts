/** A probe for processes without the REST gateway: `GET /health/live` and `/health/ready` on METRICS_PORT. */
import { createServer, type Server } from 'node:http'

export interface ProbeOptions {
  port: number
  host: string
  /** What the process still waits for, by name; null when it runs. */
  waitsFor(): Record<string, string> | null
}

export function startProbe({ port, host, waitsFor }: ProbeOptions): Promise<Server> {
  const server = createServer((request, response) => {
    const [status, body] = answer(request.method === 'GET' ? request.url : '', waitsFor())
    response.writeHead(status, { 'Content-Type': 'application/json' })
    response.end(JSON.stringify(body))
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => resolve(server.unref()))
  })
}

function answer(path: string | undefined, checks: Record<string, string> | null): [number, object] {
  if (path === '/health/live') return [200, { status: 'ok' }]
  if (path !== '/health/ready') return [404, { status: 'not found' }]
  if (checks === null) return [200, { status: 'ready', missing: [], checks: {} }]
  return [503, { status: 'not ready', missing: Object.keys(checks), checks }]
}
