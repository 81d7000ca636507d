/** What was started, to be stopped last-first. */
export const undo: (() => unknown)[] = []

/** Stops all that was started, whatever goes wrong with one of them. */
export async function undoAll() {
  const failures: unknown[] = []
  for (const each of undo.splice(0).reverse()) {
    try {
      await each()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
}
