import { chmodSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { undo } from './undo.ts'

/**
 * A wall clock that can leap, by Debian's libfaketime, for the processes that get its `env`.
 * Monotonic clocks do not leap, as in life.
 */
export function makeClock() {
  const directory = mkdtempSync(join(tmpdir(), 'user-service-clock-'))
  undo.push(() => rmSync(directory, { recursive: true }))
  chmodSync(directory, 0o755)
  const file = join(directory, 'offset')
  /** How far it is from the true time, from now on. */
  const leap = (days: number) => {
    writeFileSync(`${file}.new`, `${days < 0 ? '' : '+'}${days}d`, { mode: 0o644 })
    renameSync(`${file}.new`, file)
  }
  leap(0)
  return {
    directory,
    leap,
    env: {
      LD_PRELOAD: '/usr/$LIB/faketime/libfaketimeMT.so.1',
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
  }
}
