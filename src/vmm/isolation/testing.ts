import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

/** That a process is a user of its own who may nothing and can become nobody else. Gives the user, and the status it was read from. */
export function checkOwnUser(pid: number): { uid: number; status: string } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const [uid] = /^Uid:\s+(\d+)\t\1\t\1\t\1$/m.exec(status)?.slice(1) ?? []
  assert.ok(Number(uid) > 1000, status)
  assert.match(status, /^Groups:\s*$/m)
  for (const kind of ['Inh', 'Prm', 'Eff', 'Amb']) assert.match(status, new RegExp(`^Cap${kind}:\t0+$`, 'm'))
  assert.match(status, /^NoNewPrivs:\t1$/m)
  return { uid: Number(uid), status }
}
