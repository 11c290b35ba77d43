import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, StepFault } from '../../model/fault.ts'
import { buildFailureOf } from '../../model/sandbox.ts'
import { withPlace } from './take-steps.ts'

test('what goes wrong in a step says where it is written, and what kind of failure it was', async () => {
  const scope = { signal: new AbortController().signal } as Parameters<typeof withPlace>[0]
  const step = { place: 'Dockerfile:3', text: 'RUN make' } as Parameters<typeof withPlace>[1]
  const cases = [
    [new StepFault('invalid', 'failed with exit code 2'), 'step'],
    [new Fault('not_found', 'there is nothing to copy'), 'not_found'],
    [new Fault('unavailable', 'the machine ended'), 'unavailable'],
  ] as const
  for (const [fault, failure] of cases) {
    const thrown = await withPlace(scope, step, () => Promise.reject(fault)).catch((error: unknown) => error)
    assert.equal((thrown as Fault).message, `Dockerfile:3: RUN make: ${fault.message}`)
    assert.equal((thrown as Fault).code, fault.code)
    assert.equal(buildFailureOf(thrown), failure)
  }
})
