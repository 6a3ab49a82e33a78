/** Turns what ssh2, SFTP servers and Node's sockets throw into the errors of domain/errors.ts, at this border and nowhere else. */
import { type ErrorType, errorType, IngestError } from '../../domain/errors.ts'

/** How far a connection had come; decides what a lost or silent one means. */
export type Phase = 'resolving' | 'dialling' | 'handshake' | 'authenticating' | 'opening' | 'ready'

export interface Place {
  host: string
  port: number
  phase: Phase
  /** Ways to authenticate that the server said it takes. */
  methods?: string[]
}

interface ForeignError {
  message?: string
  code?: string | number
  level?: string
  reason?: number
}

const dialFailures: Record<string, string> = {
  ECONNREFUSED: 'refused the connection; check the port and that the server runs',
  EHOSTUNREACH: 'cannot be reached; check the address and the network',
  ENETUNREACH: 'cannot be reached; check the address and the network',
  ENOTFOUND: 'is not a known host; check its spelling',
  EAI_AGAIN: 'cannot be resolved now; check the name server',
  ETIMEDOUT: 'did not answer; check the address and the firewall'
}

const missingAlgorithms: [RegExp, string, string][] = [
  [/key exchange/, 'key exchange method', 'kex'],
  [/host key/, 'host key type', 'serverHostKey'],
  [/cipher/, 'cipher', 'cipher'],
  [/MAC/, 'message authentication code', 'hmac'],
  [/compression/, 'compression', 'compress']
]

/** SSH's reason code for "too many connections". */
const tooManyConnections = 12

/** What ended, or prevented, a whole connection. */
export function connectionError(thrown: unknown, place: Place): IngestError {
  if (isOurs(thrown)) return thrown
  const error = (thrown ?? {}) as ForeignError
  const at = `${place.host}:${place.port}`
  const text = clean(error.message)
  const make = (type: ErrorType, message: string) =>
    new IngestError(type, message, { data: { host: place.host, port: place.port }, cause: thrown })

  if (error.level === 'client-authentication' || /too many authentication failures/i.test(text)) {
    const takes = place.methods?.length ? ` The server takes: ${clean(place.methods.join(', '))}.` : ''
    return make('SFTP_AUTH_FAILED', `${at} refused the credentials; check the user name, password and key.${takes}`)
  }
  if (error.code === tooManyConnections || /too many|MaxStartups/i.test(text)) {
    return make('SFTP_TOO_MANY_SESSIONS', `${at} takes no more sessions now; lower this server's connection limit.`)
  }
  if (place.phase === 'ready') {
    return make('SFTP_CONNECTION_LOST', `The connection to ${at} was lost${text ? ` (${text})` : ''}.`)
  }
  if (/no matching/.test(text)) {
    const [, what, key] = missingAlgorithms.find(([pattern]) => pattern.test(text)) ?? [null, 'algorithm', 'algorithms']
    return make(
      'SFTP_PROTOCOL',
      `${at} offers no ${what} that Longshore takes by default; if an older one must do, name it under "${key}" in this server's algorithms.`
    )
  }
  if (/^Unsupported algorithm/.test(text)) {
    return make('SFTP_PROTOCOL', `${text} is named in the algorithms of ${at}; Longshore knows no such one.`)
  }
  const dial = typeof error.code === 'string' ? dialFailures[error.code] : undefined
  if (dial) return make('SFTP_UNREACHABLE', `${at} ${dial} (${error.code}).`)
  if (place.phase === 'dialling' || place.phase === 'resolving') {
    return make('SFTP_UNREACHABLE', `${at} cannot be reached (${text || 'no reason given'}).`)
  }
  if (error.level === 'handshake' || error.level === 'protocol' || error.level === 'sftp-protocol') {
    if (!/Connection lost/.test(text)) return make('SFTP_PROTOCOL', `${at} broke the protocol: ${text}.`)
  }
  return make(
    'SFTP_UNREACHABLE',
    `${at} closed the connection while ${doing[place.phase]}${text ? ` (${text})` : ''}; it may be busy, or no SSH server.`
  )
}

const doing: Record<Phase, string> = {
  resolving: 'its name was resolved',
  dialling: 'it was dialled',
  handshake: 'keys were exchanged',
  authenticating: 'logging in',
  opening: 'SFTP was opened',
  ready: 'in use'
}

/** The whole connect took longer than it may. */
export function connectTimeout(place: Place, timeoutMs: number): IngestError {
  const at = `${place.host}:${place.port}`
  const silent = place.phase === 'dialling' || place.phase === 'resolving'
  return new IngestError(
    silent ? 'SFTP_UNREACHABLE' : 'SFTP_TIMEOUT',
    silent
      ? `${at} did not answer within ${timeoutMs} ms; check the address and the firewall.`
      : `${at} fell silent for ${timeoutMs} ms while ${doing[place.phase]}.`,
    { data: { host: place.host, port: place.port } }
  )
}

/** A refused SFTP channel: a session limit, or a server without SFTP. */
export function channelError(thrown: unknown, place: Place): IngestError {
  if (isOurs(thrown)) return thrown
  const error = thrown as ForeignError
  const at = `${place.host}:${place.port}`
  if (error.reason !== undefined) {
    return new IngestError('SFTP_TOO_MANY_SESSIONS', `${at} opens no more channels: ${clean(error.message)}.`, {
      cause: thrown
    })
  }
  return new IngestError('SFTP_PROTOCOL', `${at} offers no SFTP to this user: ${clean(error.message)}.`, {
    cause: thrown
  })
}

/** The failure of one request. `action` reads as in "Could not <action> <path>". */
export function requestError(thrown: unknown, action: string, path: string): IngestError {
  if (isOurs(thrown)) return thrown
  const error = thrown as ForeignError
  const text = clean(error.message)
  const shown = JSON.stringify(path)
  const make = (type: ErrorType, message: string) => new IngestError(type, message, { data: { path }, cause: thrown })
  switch (error.code) {
    case 2:
      return make('SFTP_NO_SUCH_PATH', `Could not ${action} ${shown}: it does not exist.`)
    case 3:
      return make(
        'SFTP_PERMISSION_DENIED',
        `Could not ${action} ${shown}: the user may not; grant the right on the server.`
      )
    case 6:
    case 7:
      return make('SFTP_CONNECTION_LOST', `Could not ${action} ${shown}: the server lost its own connection.`)
    case 8:
      return make('SFTP_FAILURE', `Could not ${action} ${shown}: the server does not support it.`)
  }
  if (text === 'No response from server' || text === 'Not connected') {
    return make('SFTP_CONNECTION_LOST', `Could not ${action} ${shown}: the connection was lost.`)
  }
  return make('SFTP_FAILURE', `Could not ${action} ${shown}: the server says "${text}".`)
}

/** One request went unanswered. */
export function requestTimeout(action: string, path: string, timeoutMs: number): IngestError {
  return new IngestError(
    'SFTP_TIMEOUT',
    `Could not ${action} ${JSON.stringify(path)}: no answer within ${timeoutMs} ms.`,
    {
      data: { path }
    }
  )
}

/** Why a signal stopped the work: its own reason where that is one of the table (a lost lease, say), else CANCELLED. */
export function cancelled(signal: AbortSignal): IngestError {
  const reason: unknown = signal.reason
  return isOurs(reason) ? reason : new IngestError('CANCELLED', 'The work was cancelled.', { cause: reason })
}

function isOurs(error: unknown): error is IngestError {
  return error instanceof Error && errorType(error) !== 'INTERNAL'
}

/** Text from a server is hostile input: one line, short. */
function clean(text: string | undefined): string {
  return (text ?? '')
    .replace(/\p{Cc}+/gu, ' ')
    .trim()
    .slice(0, 200)
}
