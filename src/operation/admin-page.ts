import { fileRoute, makePage } from './routes.ts'

const scripts = ['elements', 'admin-tools', 'admin-users', 'admin-audit', 'admin-live', 'admin']

/** The page for admins, which holds no data. */
export function adminRoute() {
  const { text, headers } = makePage('admin', scripts)
  return fileRoute({
    path: '/admin',
    operationId: 'getAdminPage',
    summary: 'A page for admins, who log in there',
    type: 'text/html; charset=utf-8',
    // Browsers would run the old page after an upgrade for as long as they may keep it.
    headers: { ...headers, 'Cache-Control': 'no-store' },
    make: () => text,
  })
}
