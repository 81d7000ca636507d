#!/usr/bin/env node
if (!process.features.typescript) (await import('tsx/esm/api')).register()
await import('../src/commands/audit.ts')
