import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, utimes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { systemClock } from '../../kit/system-clock.ts'
import { CacheStore } from './cache-store.ts'
import { hideSecrets } from './hide-secrets.ts'

const signal = AbortSignal.timeout(20_000)

test("a cache is one template's, is replaced when it is whole, and the oldest go when all are too large", async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-caches-'))
  try {
    const store = new CacheStore({ directory, clock: systemClock, maxBytes: 20 })
    const read = async (template: string, id: string) => {
      const found = await store.open(template, id)
      return found && (await text(found))
    }
    const save = (template: string, id: string, what: string) =>
      store.save(template, id, Readable.from([Buffer.from(what)]), { signal })
    assert.equal(await read('web', '/c'), undefined)
    await save('web', '/c', 'first')
    assert.equal(await read('other', '/c'), undefined)
    await assert.rejects(save('web', '/c', 'more than half'), /it is larger than 10 B/)
    async function* broken() {
      yield Buffer.from('half')
      throw new Error('broken off')
    }
    await assert.rejects(store.save('web', '/c', Readable.from(broken()), { signal }), /broken off/)
    assert.equal(await read('web', '/c'), 'first')
    for (const name of await readdir(directory)) await utimes(join(directory, name), 1, systemClock.now() / 1000 - 60)
    await save('web', '/d', '0123456789')
    await save('web', '/e', '01234')
    await save('web', '/f', '01234')
    assert.deepEqual(await Promise.all(['/c', '/d', '/e', '/f'].map((id) => read('web', id))), [
      ...[undefined, '0123456789', '01234', '01234'],
    ])
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})

test('what is secret is hidden in what a command says, line by line', () => {
  const base64 = (what: string) => Buffer.from(what).toString('base64')
  const hide = hideSecrets({ key: base64('BEGIN\nabcdef\nEND\n'), short: base64('a') })
  assert.equal(hide('key abcdef, a key'), 'key (hidden), a key')
})
