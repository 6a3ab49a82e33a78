/**
 * Stands at the API's address until the gateway takes it over: while NATS is away the gateway cannot start, and a
 * process that only waits must not be taken for a dead one. It answers the two health calls, and 503 to all others.
 */
import { createServer } from 'node:http'
import type { ServiceBroker } from 'moleculer'
import { sendProblem } from './problem.ts'

export interface Lobby {
  /** Gives the address up; idempotent. */
  close(): Promise<void>
}

export interface LobbyOptions {
  host: string
  port: number
  /** What the start waits for, by the name of the check. */
  waitsFor(): Record<string, string>
}

/** Rejects when the address is taken. */
export async function openLobby({ host, port, waitsFor }: LobbyOptions): Promise<Lobby> {
  const server = createServer((request, response) => {
    const path = request.method === 'GET' ? request.url?.split('?')[0] : ''
    const checks = waitsFor()
    const health: Record<string, [number, object]> = {
      '/api/v1/health/live': [200, { status: 'ok' }],
      '/api/v1/health/ready': [503, { status: 'not ready', missing: Object.keys(checks), checks }]
    }
    // The gateway listens at the same address: no connection may outlive this server.
    response.setHeader('Connection', 'close')
    const [status, body] = health[path ?? ''] ?? []
    if (!status) {
      const message = `Longshore starts and waits: ${Object.values(checks).join('; ')}`
      return sendProblem(response, Object.assign(new Error(message), { type: 'SERVICE_NOT_AVAILABLE' }))
    }
    response.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8' })
    response.end(JSON.stringify(body))
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  let closed: Promise<void> | undefined
  return {
    close() {
      closed ??= new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
      return closed
    }
  }
}

/** A middleware that closes the lobby right before the gateway starts to listen. */
export function lobbyGivesWay(lobby: Lobby) {
  return {
    name: 'lobby',
    async serviceStarting(service: { name: string; broker: ServiceBroker }) {
      if (service.name === 'api') await lobby.close()
    }
  }
}
