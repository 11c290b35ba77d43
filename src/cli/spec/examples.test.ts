import assert from 'node:assert/strict'
import { glob } from 'node:fs/promises'
import { test } from 'node:test'
import { testCli } from '../testing.ts'
import { readJobFiles } from './read-files.ts'

const files = (await Array.fromAsync(glob('examples/*.{yaml,json,ts}')))
  .filter((file) => !file.endsWith('.d.ts') && !file.endsWith('sandbox.ts'))
  .sort()

test('there are examples of every kind', () => {
  for (const name of ['web.yaml', 'batch.yaml', 'container.yaml', 'job.ts'])
    assert.ok(files.includes(`examples/${name}`), name)
})

for (const file of files) {
  test(`${file} is a job as it stands`, async () => {
    await using shell = await testCli()
    const jobs = await readJobFiles(shell.cli, [file])
    assert.ok(jobs.length > 0)
    for (const { spec } of jobs) assert.ok(Object.keys(spec.tasks).length > 0)
  })
}
