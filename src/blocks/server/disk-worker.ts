import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { parentPort } from 'node:worker_threads'
import { loadLibc } from '../memory/libc.ts'
import { NbdConnection } from '../nbd/connection.ts'
import type { NbdExport } from '../nbd/export.ts'
import { errorWithCode } from '../nbd/export.ts'
import { describeFault, type WorkerAnswer } from './call-worker.ts'
import type { DiskRequest, FetchAsked, Fetched, Traffic } from './disk-protocol.ts'
import { ImageExport } from './image-export.ts'
import { Overlay } from './overlay.ts'
import type { Base } from './overlay-view.ts'

/**
 * A thread that serves disks to guests. It is asked to open, cut and close them, and asks for what is not local; whatever
 * else the block server has to do does not stand between a guest and its disk.
 */
interface Served {
  target: NbdExport
  overlay: Overlay | undefined
  server: Server
  connections: Set<NbdConnection>
  socket: string
}

const sendBufferBytes = 4 * 1024 * 1024

const port = parentPort
if (port === null) throw new Error('this is a worker')

const served = new Map<string, Served>()
const fetches = new Map<number, { resolve: () => void; reject: (error: Error) => void }>()
let nextFetch = 0
/** Of connections that are over; the few bytes that requests are said in are counted as well. */
const past: Traffic = { read: 0, written: 0 }
const sockets = new Set<Socket>()

port.on('message', (message: (DiskRequest & { id: number }) | Fetched) => {
  if (message.kind === 'fetched') return settle(message)
  const { id } = message
  carryOut(message).then(
    (value) => port.postMessage({ id, value } satisfies WorkerAnswer),
    (error: unknown) => port.postMessage({ id, fault: describeFault(error) } satisfies WorkerAnswer),
  )
})

async function carryOut(request: DiskRequest): Promise<number | Traffic> {
  if (request.kind === 'open') return open(request)
  if (request.kind === 'traffic') return traffic()
  return request.kind === 'cut' ? cut(request) : close(request)
}

async function open({ name, socket, overlay, size, base, bootId }: DiskRequest & { kind: 'open' }): Promise<number> {
  const fetching: Base | undefined = base && {
    ...base,
    fetch: (first, last) => fetchChunks(base.key, first, last),
  }
  const disk = overlay && new Overlay({ directory: overlay.directory, size, base: fetching, bootId })
  const target = disk ?? new ImageExport(size, fetching)
  const connections = new Set<NbdConnection>()
  const server = createServer((connection) => {
    growSendBuffer(connection)
    const serving = new NbdConnection(connection, target)
    connections.add(serving)
    sockets.add(connection)
    connection.on('close', () => {
      connections.delete(serving)
      sockets.delete(connection)
      past.read += connection.bytesWritten
      past.written += connection.bytesRead
    })
  })
  rmSync(socket, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(socket, resolve)
  })
  // The directory says who gets here: its VMM, which may be another user, is handed that.
  chmodSync(socket, 0o666)
  served.set(name, { target, overlay: disk, server, connections, socket })
  return disk?.epoch ?? 0
}

function traffic(): Traffic {
  const all = { ...past }
  for (const { bytesRead, bytesWritten } of sockets) {
    all.read += bytesWritten
    all.written += bytesRead
  }
  return all
}

/** A reply of a MiB then leaves in one call, and the VMM takes it while the next request is read. */
function growSendBuffer(connection: Socket): void {
  const { fd } = (connection as unknown as { _handle?: { fd?: number } })._handle ?? {}
  if (fd !== undefined && fd >= 0) loadLibc()?.growSendBuffer(fd, sendBufferBytes)
}

async function cut({ name }: { name: string }): Promise<number> {
  const { overlay, connections } = find(name)
  if (overlay === undefined) throw errorWithCode('EINVAL', 'only disks are cut')
  for (const connection of connections) await connection.quiet()
  return overlay.cut()
}

async function close({ name }: { name: string }): Promise<number> {
  const { overlay, server, connections, socket } = find(name)
  served.delete(name)
  server.close()
  for (const connection of connections) connection.end()
  for (const connection of connections) await connection.quiet()
  await overlay?.close()
  rmSync(socket, { force: true })
  return 0
}

function find(name: string): Served {
  const found = served.get(name)
  if (found === undefined) throw errorWithCode('ENOENT', `there is no disk ${name}`)
  return found
}

function fetchChunks(key: string, first: number, last: number): Promise<void> {
  const fetch = nextFetch++
  port?.postMessage({ kind: 'fetch', fetch, key, first, last } satisfies FetchAsked)
  return new Promise((resolve, reject) => fetches.set(fetch, { resolve, reject }))
}

function settle({ fetch, fault }: Fetched): void {
  const waiting = fetches.get(fetch)
  fetches.delete(fetch)
  if (fault === undefined) waiting?.resolve()
  else waiting?.reject(errorWithCode('EIO', fault))
}
