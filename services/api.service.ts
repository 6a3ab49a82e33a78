/** The REST gateway: routes, keys, errors. What the calls do stands in `rest/`. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Context, ServiceSchema } from 'moleculer'
import ApiGateway from 'moleculer-web'
import type { Config, Role } from '../config.ts'
import { openStore } from '../drivers/store/open.ts'
import type { ObjectStore } from '../drivers/store/store.ts'
import { BODY_LIMIT_BYTES, jsonBody } from '../rest/body.ts'
import { contentActions, contentAliases, wantedOf } from '../rest/content-actions.ts'
import { fileActions, fileAliases } from '../rest/file-actions.ts'
import { healthActions, healthAliases, nodeAliases } from '../rest/health-actions.ts'
import { inspectionActions, inspectionAliases } from '../rest/inspection-actions.ts'
import { authenticator, mayActAs } from '../rest/keys.ts'
import { guardMethods } from '../rest/methods.ts'
import { sendProblem } from '../rest/problem.ts'
import type { RestMeta } from '../rest/request.ts'
import { serverActions, serverAliases } from '../rest/server-actions.ts'
import { statsActions, statsAliases } from '../rest/stats-actions.ts'

/** What moleculer-web keeps on a request. */
type GatewayRequest = IncomingMessage & { body?: unknown; $params: { body: unknown } }

export function apiService(config: Config): ServiceSchema {
  const callerOf = authenticator(config.apiKeys)
  const shared = {
    mergeParams: false,
    mappingPolicy: 'restrict',
    onError(_request: IncomingMessage, response: ServerResponse, error: Error) {
      sendProblem(response, error)
    }
  }
  return {
    name: 'api',
    mixins: [ApiGateway as unknown as ServiceSchema],

    settings: {
      port: config.api.port,
      ip: config.api.host,
      log4XXResponses: false,
      logRequest: 'debug',
      logResponse: 'debug',
      // Never: a body may hold the credentials of an SFTP server.
      logRequestParams: null,
      use: [guardMethods],
      routes: [
        {
          ...shared,
          path: '/api/v1/health',
          aliases: healthAliases
        },
        {
          ...shared,
          path: '/api/v1',
          authorization: true,
          // Not for health: a probe must never be told to come back later. By the socket's address: a header would let
          // a client choose its own.
          rateLimit:
            config.rateLimit > 0
              ? {
                  window: 60_000,
                  limit: config.rateLimit,
                  headers: true,
                  key: (request: IncomingMessage) => request.socket.remoteAddress
                }
              : null,
          bodyParsers: { text: { limit: BODY_LIMIT_BYTES, type: () => true } },
          aliases: {
            ...serverAliases,
            ...inspectionAliases,
            ...fileAliases,
            ...contentAliases,
            ...statsAliases,
            ...nodeAliases
          },
          onBeforeCall(ctx: Context<unknown, RestMeta>, _route: unknown, request: GatewayRequest) {
            request.$params.body = jsonBody(request.body)
            const given = request.headers['if-match']
            if (given !== undefined) ctx.meta.ifMatch = given
            if (request.url?.includes('/content')) ctx.meta.wanted = wantedOf(request)
          }
        }
      ],
      onError(_request: IncomingMessage, response: ServerResponse, error: Error) {
        sendProblem(response, error)
      }
    },

    actions: {
      ...serverActions(config),
      ...inspectionActions,
      ...fileActions,
      ...contentActions,
      ...statsActions,
      ...healthActions
    },

    methods: {
      openStore(): ObjectStore {
        return openStore(config)
      },

      /** HEAD where there is no call of its own for it: that of GET, whose body the gateway leaves out. */
      resolveAlias(this: any, path: string, method?: string) {
        const find = (one?: string) => ApiGateway.methods!.resolveAlias.call(this, path, one)
        return find(method) || (method === 'HEAD' && find('GET'))
      },

      /** A key first, then the role that the action asks for. */
      authorize(ctx: Context<unknown, { caller?: object }>, _route: unknown, request: any) {
        const caller = callerOf(request.headers.authorization)
        if (!caller) {
          throw Object.assign(new Error('send an API key as "Authorization: Bearer <secret>"'), {
            code: 401,
            type: 'NOT_AUTHENTICATED'
          })
        }
        const needed: Role = request.$endpoint?.action?.role ?? 'admin'
        if (!mayActAs(caller, needed)) {
          const message = `the key ${caller.name} is a ${caller.role}; this call needs the role ${needed}`
          throw Object.assign(new Error(message), { code: 403, type: 'NOT_ALLOWED' })
        }
        ctx.meta.caller = caller
      }
    },

    created(this: any) {
      // moleculer-web ends the process here too, but with a stack, and does not say which variable to mend.
      this.server.removeAllListeners('error').on('error', (error: NodeJS.ErrnoException) => {
        if (error.syscall !== 'listen') return this.logger.error(`the HTTP server: ${error.message}`)
        const { host, port } = config.api
        const should = 'should be free to listen on; 0 takes a free one'
        console.error(`longshore: API_PORT ${port} on API_HOST ${host} ${should} (${error.code})`)
        process.exit(1)
      })
    },

    started(this: any) {
      this.store = this.openStore()
      const { port } = this.server.address()
      this.logger.info(`REST at http://${config.api.host}:${port}/api/v1`)
    },

    async stopped(this: any) {
      await this.store?.close()
    }
  } as ServiceSchema
}
