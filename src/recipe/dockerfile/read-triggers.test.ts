import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readTriggers } from './read-triggers.ts'

const read = (triggers: string[], { buildArgs = {}, stages = [] as string[] } = {}) =>
  readTriggers(triggers, { image: 'web', buildArgs, stages })

test('the ONBUILD instructions of an image become steps, in their order', () => {
  const { steps } = read(['ENV A=1', 'RUN one $A', 'SHELL ["/bin/bash", "-c"]', 'RUN two', 'COPY --from=tools a /a'], {
    stages: ['', 'tools'],
  })
  assert.deepEqual(
    steps.map(({ step }) => step),
    [
      { kind: 'env', values: { A: '1' } },
      { kind: 'run', command: 'one $A' },
      { kind: 'run', command: ['/bin/bash', '-c', 'two'] },
      { kind: 'copy', sources: ['a'], to: '/a', unpack: false, from: { stage: 1 } },
    ],
  )
  assert.deepEqual([steps[1]?.place, steps[1]?.text], ['ONBUILD of web', 'ONBUILD RUN one $A'])
})

test('arguments that they declare are given with --build-arg, and the steps after them see them', () => {
  const triggers = ['ARG VERSION=1', 'ARG OTHER', 'RUN get $VERSION']
  assert.deepEqual(read(triggers).args, { VERSION: '1' })
  const { args, steps } = read(triggers, { buildArgs: { VERSION: '2', OTHER: 'x' } })
  assert.deepEqual(args, { VERSION: '2', OTHER: 'x' })
  assert.deepEqual(steps[0]?.step, { kind: 'run', command: 'get $VERSION', args: { VERSION: '2', OTHER: 'x' } })
})

test('what they say of the start goes before what the image says', () => {
  const { entrypoint, command, ready } = read(['ENTRYPOINT ["serve"]', 'CMD now', 'HEALTHCHECK CMD curl localhost'])
  assert.deepEqual([entrypoint, command], [['serve'], ['/bin/sh', '-c', 'now']])
  assert.equal(ready?.command, 'curl localhost')
})

test('one that cannot be carried out is named with its image', () => {
  const cases: [string, RegExp][] = [
    [
      'ONBUILD RUN x',
      /image "web" cannot be begun from: its ONBUILD instruction "ONBUILD RUN x": ONBUILD cannot follow/,
    ],
    ['RNU x', /"RNU" is not an instruction; did you mean RUN\?/],
    ['RUN a\nRUN b', /it is not one instruction/],
    ['', /it is not one instruction/],
    ['COPY --from=0 a /', /is no stage above/],
  ]
  for (const [trigger, message] of cases) assert.throws(() => read([trigger]), message, trigger)
})
