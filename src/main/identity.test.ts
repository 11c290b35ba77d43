import assert from 'node:assert/strict'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { NodeId } from '../model/ids.ts'
import { readIdentity, writeIdentity } from './identity.ts'

test('an identity is kept for its owner only, and a damaged one is named with what to do', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-identity-'))
  try {
    const file = join(directory, 'agent', 'identity.json')
    assert.equal(await readIdentity(file), undefined)
    const identity = {
      node: '0123456789abcdef' as NodeId,
      name: 'node-a',
      address: { host: 'control', port: 7447 },
      certificate: 'certificate',
      key: 'key',
      ca: 'ca',
    }
    await writeIdentity(file, identity)
    assert.deepEqual(await readIdentity(file), identity)
    assert.equal((await stat(file)).mode & 0o777, 0o600)
    await writeFile(file, '{"half":')
    await assert.rejects(readIdentity(file), /is damaged; remove it and join again/)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
