import { Fault } from '../../model/fault.ts'
import type { Database } from './database.ts'

/**
 * The file's shape, step by step. The number of steps taken is the file's `user_version`. Add to the end; never change
 * what stands here. An older program refuses a newer file, so a step may change anything.
 */
const migrations: readonly string[] = [
  `
  CREATE TABLE log (idx INTEGER PRIMARY KEY, at INTEGER NOT NULL, changes TEXT NOT NULL) STRICT;
  CREATE TABLE rows (tbl TEXT NOT NULL, key TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (tbl, key)) STRICT, WITHOUT ROWID;
  CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT;
  INSERT INTO meta VALUES ('checkpoint', 0);
  `,
]

/** "Tuti" in ASCII: says whose file it is (https://sqlite.org/pragma.html#pragma_application_id). */
const applicationId = 0x54757469

export function migrate(database: Database): void {
  database.transaction(() => {
    const [version] = database.first<[number]>('PRAGMA user_version') ?? [0]
    const [owner] = database.first<[number]>('PRAGMA application_id') ?? [0]
    const [tables] = database.first<[number]>('SELECT count(*) FROM sqlite_schema') ?? [0]
    if (owner !== applicationId && tables > 0) {
      throw new Fault('invalid', `${database.path} is a database of another program; give another state directory`)
    }
    if (version > migrations.length) {
      throw new Fault(
        'invalid',
        `${database.path} was written by a newer version of Tutti (format ${version}, this one knows ${migrations.length}); run that version`,
      )
    }
    for (const sql of migrations.slice(version)) database.exec(sql)
    database.exec(`PRAGMA user_version = ${migrations.length}; PRAGMA application_id = ${applicationId}`)
  })
}
