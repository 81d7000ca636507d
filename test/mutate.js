process.env.TSX_DISABLE_CACHE = '1'
if (!process.features.typescript) (await import('tsx/esm/api')).register()
await import('./mutate.ts')
