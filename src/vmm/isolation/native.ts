import { closeSync, openSync } from 'node:fs'
import { loadFfi } from '../../kit/ffi.ts'

/** What of Linux it takes to start a program that can reach nothing but what it is handed, and Node has no function for. */
export interface Native {
  /** A Unix socket that listens at a path, for a program that may make nothing there itself. */
  listenAt(path: string): number
  /** Writes to a socket and passes a descriptor along with it. */
  sendWith(socket: number, bytes: Uint8Array, descriptor: number): boolean
  /** A network namespace of this machine, with nothing in it and leading nowhere; undefined where none can be made. */
  emptyNetwork(): number | undefined
  /** Does something with this thread in another network namespace: what it starts or opens there stays there. */
  inNetwork<T>(namespace: number, act: () => T): T
  /** A descriptor of an existing tap device in a namespace, without the header that goes before every frame. */
  openTap(namespace: number | undefined, device: string): number
  /** Lets a user open such a device by its name, where that user is. */
  giveTap(namespace: number | undefined, device: string, uid: number): void
  /**
   * A directory with all that is mounted in it, as a descriptor of a mount of its own that is nowhere yet: from it no way leads
   * up to what is around the directory. Linux 5.2.
   */
  mountOf(directory: string): number
  /** Whether the file can be written by nobody any more, whatever they are allowed. */
  isSealed(fd: number): boolean
}

const newNetwork = 0x4000_0000
/** https://docs.kernel.org/networking/tuntap.html: TUNSETIFF, IFF_TAP | IFF_NO_PI; TUNSETOWNER */
const setInterface = 0x4004_54ca
const tapFlags = 0x0002 | 0x1000
const setOwner = 0x4004_54cc
const nameBytes = 16
/** https://man7.org/linux/man-pages/man2/open_tree.2.html: OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE */
const [openTree, fromHere, cloneTree] = [428, -100, 0x8000 | 0o2_000_000 | 1]
const getSeals = 1034
const sealWrite = 8
const unixFamily = 1
const [stream, closeOnExec] = [1, 0o2_000_000]
/** https://man7.org/linux/man-pages/man3/cmsg.3.html */
const [solSocket, rights, noSignal] = [1, 1, 0x4000]

export function loadNative(): Native | undefined {
  if (process.platform !== 'linux') return undefined
  const ffi = loadFfi()
  if (ffi === undefined) return undefined
  const { functions: c } = ffi.dlopen(null, {
    socket: { arguments: ['int32', 'int32', 'int32'], return: 'int32' },
    bind: { arguments: ['int32', 'buffer', 'uint32'], return: 'int32' },
    listen: { arguments: ['int32', 'int32'], return: 'int32' },
    sendmsg: { arguments: ['int32', 'buffer', 'int32'], return: 'int64' },
    unshare: { arguments: ['int32'], return: 'int32' },
    setns: { arguments: ['int32', 'int32'], return: 'int32' },
    ioctl: { arguments: ['int32', 'uint64', 'uint64'], return: 'int32' },
    fcntl: { arguments: ['int32', 'int32', 'int64'], return: 'int32' },
    syscall: { arguments: ['int64', 'int64', 'buffer', 'int64'], return: 'int64' },
  })
  const ownNetwork = () => openSync('/proc/thread-self/ns/net', 'r')

  const returning = <T>(home: number, act: () => T): T => {
    try {
      return act()
    } finally {
      // A thread of ours in a sandbox's network must not live on.
      if (c.setns(home, newNetwork) !== 0) process.abort()
      closeSync(home)
    }
  }
  const inNetwork = <T>(namespace: number, act: () => T): T =>
    returning(ownNetwork(), () => {
      if (c.setns(namespace, newNetwork) !== 0) throw new Error('the network namespace cannot be entered')
      return act()
    })

  const openTap = (namespace: number | undefined, device: string): number => {
    const open = () => {
      const fd = openSync('/dev/net/tun', 'r+')
      const request = Buffer.alloc(40)
      request.write(device, 0, nameBytes - 1)
      request.writeInt16LE(tapFlags, nameBytes)
      if (c.ioctl(fd, BigInt(setInterface), ffi.getRawPointer(request)) === 0) return fd
      closeSync(fd)
      throw new Error(`the tap device ${device} cannot be opened; is it there, and is nobody else using it?`)
    }
    return namespace === undefined ? open() : inNetwork(namespace, open)
  }

  return {
    inNetwork,
    listenAt(path) {
      const address = Buffer.alloc(110)
      address.writeUInt16LE(unixFamily)
      const length = address.write(path, 2) + 3
      if (length > address.length) throw new Error(`${path} is too long a name for a socket`)
      const fd = c.socket(unixFamily, stream | closeOnExec, 0)
      if (fd >= 0 && c.bind(fd, address, length) === 0 && c.listen(fd, 16) === 0) return fd
      if (fd >= 0) closeSync(fd)
      throw new Error(`no socket can be made at ${path}`)
    },
    sendWith(socket, bytes, descriptor) {
      const vector = new BigUint64Array([ffi.getRawPointer(bytes), BigInt(bytes.length)])
      const control = Buffer.alloc(24)
      control.writeBigUInt64LE(20n, 0)
      control.writeInt32LE(solSocket, 8)
      control.writeInt32LE(rights, 12)
      control.writeInt32LE(descriptor, 16)
      const message = new BigUint64Array([
        ...[0n, 0n, ffi.getRawPointer(vector), 1n],
        ...[ffi.getRawPointer(control), BigInt(control.length), 0n],
      ])
      return Number(c.sendmsg(socket, Buffer.from(message.buffer), noSignal)) === bytes.length
    },
    emptyNetwork: () => returning(ownNetwork(), () => (c.unshare(newNetwork) === 0 ? ownNetwork() : undefined)),
    openTap,
    giveTap(namespace, device, uid) {
      const fd = openTap(namespace, device)
      try {
        if (c.ioctl(fd, BigInt(setOwner), BigInt(uid)) !== 0) throw new Error(`nobody can be given ${device}`)
      } finally {
        closeSync(fd)
      }
    },
    mountOf(directory) {
      const fd = Number(c.syscall(BigInt(openTree), BigInt(fromHere), Buffer.from(`${directory}\0`), BigInt(cloneTree)))
      if (fd >= 0) return fd
      throw new Error(`no mount can be made of ${directory}`)
    },
    isSealed: (fd) => {
      const seals = c.fcntl(fd, getSeals, 0n)
      return seals >= 0 && (seals & sealWrite) !== 0
    },
  }
}
