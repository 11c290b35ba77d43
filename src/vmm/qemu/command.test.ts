import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type CommandOptions, cmdlineOf, commandOf } from './command.ts'

const options: CommandOptions = {
  kind: { program: 'qemu-system-x86_64', type: 'pc-q35-7.2', accelerator: 'tcg', cpu: 'Westmere' },
  shape: { arch: 'amd64', cpus: 2, memoryMiB: 256 },
  directory: '/run/tutti/a,b',
  memory: { path: '/proc/1/fd/9', shared: false },
  start: 'incoming',
}

test('the devices are the same in a machine that boots and in one that waits', () => {
  const start = { kernel: '/k', initrd: '/i', cmdline: 'quiet' }
  const boots = commandOf({ ...options, memory: { path: '/m', shared: true }, start })
  const devices = (command: string[]) => command.filter((_, at) => command[at - 1] === '-device')
  assert.deepEqual(devices(boots), devices(commandOf(options)))
  assert.deepEqual(devices(boots), devices(commandOf({ ...options, memory: 'later' })))
  assert.deepEqual(
    devices(boots).map((device) => device.split(',')[0]),
    ['virtio-serial-pci', 'virtserialport', 'virtio-blk-pci', 'virtio-net-pci', 'virtio-rng-pci'],
  )
})

test('no machine has a balloon', () => {
  assert.doesNotMatch(commandOf(options).join(' '), /balloon/)
})

test('commas in paths do not end an option', () => {
  assert.ok(commandOf(options).includes('socket,id=monitor,path=/run/tutti/a,,b/qmp.sock,server=on,wait=off'))
})

test('only a machine that waits for any template is made without memory', () => {
  assert.ok(!commandOf(options).includes('-preconfig'))
  assert.ok(commandOf({ ...options, memory: 'later' }).includes('-preconfig'))
  assert.match(commandOf(options).join(' '), /mem-path=\/proc\/1\/fd\/9,share=off/)
})

test('only an emulated kernel is told not to trust its time stamp counter', () => {
  assert.match(cmdlineOf({ accelerator: 'tcg' }, 'amd64'), /tsc=unstable clocksource=hpet/)
  assert.doesNotMatch(cmdlineOf({ accelerator: 'kvm' }, 'amd64'), /tsc|hpet/)
  assert.match(
    cmdlineOf({ accelerator: 'tcg' }, 'arm64', 'tutti.init=/sbin/init'),
    /ttyAMA0 .* tutti\.init=\/sbin\/init$/,
  )
})
