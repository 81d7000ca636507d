# The service as it is in the repository: pg, our text and Node, no build step. It needs no
# privilege: docker run --read-only --cap-drop ALL --security-opt no-new-privileges
FROM node:24.22.3-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24.22.3-bookworm-slim
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json ./
COPY sql sql
COPY bin bin
COPY src src
ARG GIT_COMMIT_HASH=unknown
ENV NODE_ENV=production SERVER_PORT=80 GIT_COMMIT_HASH=$GIT_COMMIT_HASH
LABEL org.opencontainers.image.title=user-service org.opencontainers.image.licenses=MIT \
  org.opencontainers.image.revision=$GIT_COMMIT_HASH
# node, by number: runAsNonRoot of Kubernetes refuses a name.
USER 1000:1000
EXPOSE 80
# The certificate is not verified: it names the service, not the address asked here.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["node", "-e", "\
  const setting = (name) => process.env[name] || process.env['ENV_' + name] || ''; \
  const host = setting('SERVER_HOST'); \
  const base = (setting('SERVER_BASE_PATH') || '/v1').split('/').filter(Boolean); \
  const { get } = require(setting('TLS_CERT_FILE') ? 'node:https' : 'node:http'); \
  const request = get({ \
    host: ['', '0.0.0.0', '::'].includes(host) ? '127.0.0.1' : host, \
    port: setting('SERVER_PORT'), \
    path: ['', ...base, 'healthcheck'].join('/'), \
    rejectUnauthorized: false, \
  }); \
  request.on('response', (answer) => process.exit(answer.statusCode === 200 ? 0 : 1)); \
  request.on('error', () => process.exit(1))"]
CMD ["node", "bin/start.js"]
