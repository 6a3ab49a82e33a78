/** A liveness probe for processes without the REST gateway: `GET /health/live` on METRICS_PORT. */
import { createServer, type Server } from 'node:http'

export function startProbe(port: number, host: string): Promise<Server> {
  const server = createServer((request, response) => {
    const isLive = request.method === 'GET' && request.url === '/health/live'
    response.writeHead(isLive ? 200 : 404, { 'Content-Type': 'application/json' })
    response.end(JSON.stringify({ status: isLive ? 'ok' : 'not found' }))
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => resolve(server.unref()))
  })
}
