import { createReadStream } from 'node:fs'
import { setPriority } from 'node:os'
import { text } from 'node:stream/consumers'
import { setFlagsFromString } from 'node:v8'

import { causeOf, sqlState } from '../database/codes.ts'
import { checkSchema } from '../database/migrate.ts'
import { withDatabase } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { importGo } from '../moving/go.ts'
import { importFile, tryPassword } from '../moving/lines.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `  go       users and keys of the Go service, from its database on the same server
  FILE     users as NDJSON, one a line; -: from stdin
  --admin  makes the user of EMAIL an admin; may be repeated
  --check  says whether the password on stdin is that of EMAIL in FILE

Users that are there already, by id or address, are left alone, so it may be stopped and run again.
Users that stay behind are named with the reason, and the others come in: exit status 1.

Connects as user_service_admin unless DATABASE_USER names another role.`

const names: Record<string, string> = {
  users: 'Users imported',
  keys: 'Keys imported',
  there: 'Users left alone, since their id or address is there already',
  behind: 'Users left behind',
  email: 'Addresses imported against the rules for new ones',
  password: 'Passwords imported against the rules for new ones',
}

await command({
  name: 'import',
  synopsis: 'go --from DATABASE [--admin EMAIL]… [--dry-run] | FILE|- [--dry-run | --check EMAIL]',
  usage,
  pattern: /^ (go( --admin)?( --dry-run)? --from|(?!go( |$))\S+( --dry-run)?|[^-]\S* --check)$/,
  checkType: 'string',
  async run({ positionals: [source = ''], values }) {
    const { from, admin = [], check, 'dry-run': isDryRun = false } = values
    if (check !== undefined) return tryOne(source, String(check))
    // The service beside it goes on answering.
    setPriority(10)
    // V8 would give what lives shortly up to 64 MB, and nothing would be faster.
    setFlagsFromString('--semi-space-growth-factor=1')
    const counts = { users: 0, keys: 0, there: 0, behind: 0, email: 0, password: 0 }
    const say = (line: string) => console.error(`import: ${line}`)
    const config = readCommandDatabase('user_service_admin')
    await withDatabase(config, async (db) => {
      await checkSchema(db)
      const target = { db, isDryRun, say, counts }
      if (from === undefined) await importFile(target, open(source))
      else
        await withDatabase({ ...config, name: from }, (old) => importGo(target, old, admin)).catch(
          (error) => refuseOther(error, from),
        )
    })
    if (from === undefined && counts.users + counts.there === 0)
      say('nobody came: it reads NDJSON in UTF-8, one user a line')
    for (const [name, count] of Object.entries(counts)) console.log(`${names[name]}: ${count}`)
    if (isDryRun) console.log('A dry run: nothing was written')
    if (counts.behind > 0) process.exitCode = 1
  },
})

function refuseOther(error: Error, name: string) {
  const { code } = causeOf(error)
  if (code === sqlState.unknownDatabase || code === sqlState.undefinedTable)
    throw new ExitError(`${name} is no database of the Go service`)
  throw error
}

/** The bytes of a file, or of stdin, as characters. */
function open(source: string) {
  if (source !== '-') return createReadStream(source, 'latin1')
  return process.stdin.setEncoding('latin1')
}

async function tryOne(file: string, email: string) {
  const typed = await text(process.stdin)
  const isRight = await tryPassword(open(file), email, typed.replace(/\r?\n$/, ''))
  if (!isRight) throw new ExitError('wrong password')
  console.log('The password is right')
}
