# The service as it is in the repository: pg, our text and Node, no build step. It needs no right that
# a container can give away: docker run --read-only --cap-drop ALL --security-opt no-new-privileges
FROM node:22.23.3-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:22.23.3-bookworm-slim
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
USER node
EXPOSE 80
# The certificate is not verified: it is in the name of the service, not of 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["node", "-e", "\
  const setting = (name) => process.env[name] || process.env['ENV_' + name]; \
  require(setting('TLS_CERT_FILE') ? 'node:https' : 'node:http').get({ \
    host: '127.0.0.1', port: setting('SERVER_PORT'), rejectUnauthorized: false, \
    path: ['', ...(setting('SERVER_BASE_PATH') || '/v1').split('/').filter(Boolean), 'healthcheck'].join('/'), \
  }, (answer) => process.exit(answer.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
CMD ["node", "bin/start.js"]
