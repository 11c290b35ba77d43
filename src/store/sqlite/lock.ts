import { readFileSync, writeFileSync } from 'node:fs'
import { Fault } from '../../model/fault.ts'
import { Database, isBusy } from './database.ts'

/**
 * Holds the state directory for this process. The lock is an exclusive transaction on an empty SQLite file: the kernel
 * lets go of it however the process ends, kill -9 included, and a second store in the same process is kept out as well.
 * The pid lies beside it, in a file, for the other one's message only.
 */
export function lockState(files: { lock: string; pid: string }): Disposable {
  const lock = new Database(files.lock, { busyTimeoutMs: 0 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    lock.close()
    if (!isBusy(error)) throw error
    const pid = readFileSync(files.pid, 'utf8').trim()
    throw new Fault(
      'conflict',
      `another control plane is running with this state directory, pid ${pid}; stop it first, or give another directory`,
    )
  }
  writeFileSync(files.pid, `${process.pid}\n`)
  return lock
}
