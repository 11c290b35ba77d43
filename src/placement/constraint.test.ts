import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseConstraint } from '../model/constraint.ts'
import { holds } from './constraint.ts'
import { ToyCluster } from './toy-cluster.ts'

const node = new ToyCluster().addNode(
  'mini-1',
  {
    os: 'linux',
    hostname: 'mini-1.example',
    cores: 10,
    memory: 16 * 2 ** 30,
    attributes: { kernel: '5.10.0-27-amd64' },
    drivers: {
      container: { healthy: true, version: '28.1.0', attributes: { runtime: 'crun' } },
      process: { healthy: false, attributes: {} },
    },
  },
  { rack: 'b', features: 'gpu, nvme', slots: '9', empty: '' },
)

const table: Record<string, { holds: string[]; fails: string[] }> = {
  'facts of the machine': {
    holds: [
      'os == linux',
      'arch != arm64',
      'node == mini-1',
      'hostname =~ "^mini-\\d+\\."',
      'cores == 10',
      'os exists',
    ],
    fails: ['os == macos', 'arch == arm64', 'node == mini-2', 'hostname =~ "^mini$"', 'cores == 9', 'os missing'],
  },
  'numbers as numbers, not as text': {
    holds: ['cores > 9', 'cores >= 10', 'label.slots < 10', 'cores <= 10'],
    fails: ['cores < 9', 'cores > 10', 'label.slots > 10'],
  },
  'memory as sizes': {
    holds: ['memory >= 16GiB', 'memory == 16GiB', 'memory > 8000MB'],
    fails: ['memory > 16GiB', 'memory < 16384MiB'],
  },
  'text by its characters': {
    holds: ['label.rack > a', 'label.rack <= b'],
    fails: ['label.rack < b', 'label.rack >= c'],
  },
  sets: {
    holds: [
      'label.rack in [a, b]',
      'label.rack not in [c, d]',
      'label.features contains [gpu]',
      'label.features contains [nvme, gpu]',
      'label.features contains any [tpu, nvme]',
    ],
    fails: [
      'label.rack in [c]',
      'label.rack not in [b]',
      'label.features contains [gpu, tpu]',
      'label.features contains any [tpu, fpga]',
    ],
  },
  'versions, read loosely': {
    holds: ['attr.kernel version >=5.10', 'attr.kernel version ">=5.4, <6"', 'attr.container.version version ^28.0.0'],
    fails: [
      'attr.kernel version >=5.11',
      'attr.kernel version <5',
      'attr.container.version version 27.x',
      'label.rack version >=1',
    ],
  },
  drivers: {
    holds: [
      'driver.container == healthy',
      'driver.process == unhealthy',
      'driver.vm missing',
      'attr.container.runtime == crun',
    ],
    fails: [
      'driver.process == healthy',
      'driver.vm exists',
      'driver.container missing',
      'attr.container.runtime == runc',
    ],
  },
  'what is absent': {
    holds: [
      'label.gpu != a100',
      'label.gpu not in [a100]',
      'label.gpu missing',
      'label.empty exists',
      'attr.vm.version missing',
    ],
    fails: [
      'label.gpu == a100',
      'label.gpu exists',
      'label.gpu < 5',
      'label.gpu =~ .*',
      'label.gpu contains [x]',
      'label.toString exists',
    ],
  },
}

for (const [what, { holds: yes, fails: no }] of Object.entries(table)) {
  test(`constraints see ${what}`, () => {
    for (const text of yes) assert.equal(holds(parsed(text), node), true, `"${text}" should hold`)
    for (const text of no) assert.equal(holds(parsed(text), node), false, `"${text}" should not hold`)
  })
}

test('before a node has said what it is, only its name and labels are known', () => {
  const unknown = { ...node, facts: null }
  assert.equal(holds(parsed('node == mini-1'), unknown), true)
  assert.equal(holds(parsed('label.rack == b'), unknown), true)
  assert.equal(holds(parsed('os == linux'), unknown), false)
  assert.equal(holds(parsed('attr.kernel exists'), unknown), false)
})

function parsed(text: string) {
  const constraint = parseConstraint(text)
  if (typeof constraint === 'string') throw new Error(constraint)
  return constraint
}
