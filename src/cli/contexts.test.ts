import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { chooseContext, readContexts, removeContext, saveContext, useContext } from './contexts.ts'
import { findHome, type Home } from './home.ts'

async function withHome(run: (home: Home) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-home-'))
  try {
    await run(findHome({ env: { TUTTI_HOME: join(directory, 'deep', 'home') } }))
  } finally {
    await rm(directory, { recursive: true })
  }
}

const local = { name: 'local', url: 'https://127.0.0.1:7447', caFingerprint: 'ab', ca: 'PEM', token: 'secret' }
const lab = { name: 'lab', url: 'https://lab:7447', caFingerprint: 'cd' }

test('the file of contexts can be read by its owner only', () =>
  withHome(async (home) => {
    await saveContext(home, local, { use: false })
    assert.equal((await stat(home.contextsFile)).mode & 0o777, 0o600)
    await saveContext(home, lab, { use: false })
    assert.equal((await stat(home.contextsFile)).mode & 0o777, 0o600)
  }))

test('the first context is used until another is chosen', () =>
  withHome(async (home) => {
    await saveContext(home, local, { use: false })
    await saveContext(home, lab, { use: false })
    assert.equal((await chooseContext(home, {})).name, 'local')
    await useContext(home, 'lab')
    assert.equal((await chooseContext(home, {})).name, 'lab')
    assert.equal((await chooseContext(home, { TUTTI_CONTEXT: 'local' })).name, 'local')
    assert.equal((await chooseContext(home, { TUTTI_CONTEXT: 'local' }, 'lab')).name, 'lab')
    await removeContext(home, 'lab')
    assert.equal((await chooseContext(home, {})).name, 'local')
    await assert.rejects(useContext(home, 'nowhere'), /no context "nowhere"; there are local/)
  }))

test('the environment goes before the file, part by part', () =>
  withHome(async (home) => {
    const env = { TUTTI_ADDR: 'host:1', TUTTI_CA_FINGERPRINT: 'ef', TUTTI_TOKEN: 't' }
    assert.deepEqual(await chooseContext(home, env), {
      name: 'environment',
      url: 'https://host:1',
      caFingerprint: 'ef',
      token: 't',
    })
    await saveContext(home, local, { use: true })
    assert.deepEqual(await chooseContext(home, { TUTTI_TOKEN: 'other' }), { ...local, token: 'other' })
    // The kept authority belongs to the kept fingerprint.
    assert.equal((await chooseContext(home, { TUTTI_CA_FINGERPRINT: 'ef' })).ca, undefined)
  }))

test('without any control plane the sentence says how to get one', () =>
  withHome(async (home) => {
    await assert.rejects(chooseContext(home, {}), { code: 'unavailable', message: /start one with "tutti dev"/ })
  }))

test('a damaged file is said, and kept as it is', () =>
  withHome(async (home) => {
    await saveContext(home, local, { use: true })
    for (const text of ['{', '[]', '{"contexts":[{"name":1}]}', 'null']) {
      await writeFile(home.contextsFile, text)
      await assert.rejects(readContexts(home), /is damaged/)
      await assert.rejects(saveContext(home, lab, { use: true }), /is damaged/)
      assert.equal(await readFile(home.contextsFile, 'utf8'), text)
    }
  }))

test('files go where the platform wants them', () => {
  const at = (os: string, env: Record<string, string>, root = false) => findHome({ os, env, home: '/h', root })
  assert.deepEqual(at('linux', {}), {
    contextsFile: '/h/.local/state/tutti/contexts.json',
    serverData: '/h/.local/state/tutti/server',
    agentData: '/h/.local/state/tutti/agent',
    cache: '/h/.cache/tutti',
  })
  assert.equal(at('linux', { XDG_STATE_HOME: '/s' }).contextsFile, '/s/tutti/contexts.json')
  assert.equal(at('linux', {}, true).agentData, '/var/lib/tutti/agent')
  assert.equal(at('linux', {}, true).contextsFile, '/var/lib/tutti/contexts.json')
  assert.equal(at('darwin', {}).contextsFile, '/h/Library/Application Support/tutti/contexts.json')
  assert.equal(at('darwin', { TUTTI_HOME: '/x' }).serverData, '/x/server')
})
