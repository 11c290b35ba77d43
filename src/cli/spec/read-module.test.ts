import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { testCli } from '../testing.ts'
import { readJobModule } from './read-module.ts'
import { SpecFault } from './spec-fault.ts'

async function read(source: string, name = 'job.ts') {
  await using shell = await testCli()
  const directory = await mkdtemp(join(tmpdir(), 'tutti-job-'))
  const file = join(directory, name)
  try {
    await writeFile(file, source)
    const jobs = await readJobModule(shell.cli, file)
    return { jobs, places: [] }
  } catch (error) {
    assert.ok(error instanceof SpecFault, String(error))
    return { jobs: [], places: error.places.map(({ line, column, message }) => `${line}:${column} ${message}`) }
  } finally {
    await rm(directory, { recursive: true })
  }
}

test('a TypeScript file anywhere on the disk finds the helper and exports jobs', async () => {
  const { jobs } = await read(`import { job } from 'tutti'
const count: number = 2
console.log('this goes elsewhere')
export const web = job({ name: 'web', count, tasks: { web: { driver: 'process', command: 'x' } } })
export const more = ['a', 'b'].map((name) => job({ name, tasks: { t: { driver: 'process', command: 'x' } } }))
`)
  assert.deepEqual(
    jobs.map(({ name, count }) => `${name} ${count}`),
    ['web 2', 'a 1', 'b 1'],
  )
})

test('plain JavaScript with a plain object will do', async () => {
  const { jobs } = await read(
    `export default { name: 'web', tasks: { web: { driver: 'process', command: 'x' } } }`,
    'job.mjs',
  )
  assert.equal(jobs[0]?.name, 'web')
})

test('a mistake is told at its line, as far as the source shows it', async () => {
  const { places } = await read(`import { job } from 'tutti'

export const web = job({
  name: 'web',
  tasks: {
    web: { driver: 'process', command: 'x', resources: { memory: '12XB' } },
  },
})
`)
  assert.deepEqual(places, ['6:58 "12XB" is not a size; write it like "512MiB" or "2GiB"'])
})

test('a file that fails is told with its line', async () => {
  const thrown = await read(`const x: number = 1\nthrow new Error('no luck ' + x)\n`)
  assert.match(thrown.places[0] ?? '', /^2:\d+ it fails when it is run: Error: no luck 1$/)
  const broken = await read('export const = 3\n')
  assert.match(broken.places[0] ?? '', /it fails when it is run: SyntaxError/)
  const missing = await read(`import 'no-such-package'\n`)
  assert.match(missing.places[0] ?? '', /no-such-package/)
})

test('a file without a job says what to write', async () => {
  const { places } = await read('export const x = 3\n')
  assert.match(places[0] ?? '', /it exports no job; write: export const web = job/)
})

test('a file that ends the process is told, and takes nobody with it', async () => {
  await using shell = await testCli()
  const directory = await mkdtemp(join(tmpdir(), 'tutti-job-'))
  try {
    const file = join(directory, 'job.ts')
    await writeFile(file, 'process.exit(3)\n')
    await assert.rejects(readJobModule(shell.cli, file), /ended with code 3 before its jobs could be read/)
  } finally {
    await rm(directory, { recursive: true })
  }
})
