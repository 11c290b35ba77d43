import type { Duplex, Readable, Writable } from 'node:stream'
import type { ExecRequest, Execution, Guest } from './guest.ts'

/**
 * What the agent inside a microVM offers (`guest/`), over any byte stream. The protocol is in `guest/PROTOCOL.md`.
 * Rejects with a Fault: `invalid`, `not_found`, `conflict`, `denied`, `exhausted` as the guest says, `unavailable` when the
 * channel is lost.
 */
export interface GuestChannel extends Guest, AsyncDisposable {
  readonly agentVersion: string
  /** What the next connection must open with, so that nothing in the guest can forge a beginning; given anew each time. */
  readonly nextToken: string
  /** Settles when the channel is lost; never rejects. */
  readonly closed: Promise<void>
  /** Makes the guest who it is. Resolves when that is done: nothing of the user's runs in between when it was frozen. */
  identify(identity: GuestIdentity, options: { signal: AbortSignal }): Promise<void>
  /** As `Guest.exec`, and the command's process id in the guest. It outlives the channel when `detached`. */
  start(request: StartRequest, options: { signal: AbortSignal }): Promise<GuestExecution>
  /** Joins a detached command again, from an offset in its kept output (its last MiB). */
  attach(pid: number, options: { from: number; signal: AbortSignal }): Promise<GuestExecution>
  processes(options: { signal: AbortSignal }): Promise<GuestProcess[]>
  readonly files: GuestFiles
  /** A TCP connection to a port on the guest's loopback; `not_found` when nobody listens. */
  forward(port: number, options: { signal: AbortSignal }): Promise<Duplex>
  /** Before a snapshot: everything under way has arrived, and nothing more is sent until the next connection. */
  quiesce(options: { signal: AbortSignal }): Promise<void>
  /** Stops everything but the agent, as one; `sync` also brings file systems to rest. */
  freeze(options: { sync: boolean; signal: AbortSignal }): Promise<void>
  thaw(options: { signal: AbortSignal }): Promise<void>
  /** Gives freed memory and disk back before a template is saved. */
  shrink(options: { signal: AbortSignal }): Promise<void>
  metrics(options: { signal: AbortSignal }): Promise<GuestMetrics>
}

export interface GuestIdentity {
  /** A new life of the same memory: told by files and hooks in the guest. */
  generation: string
  /** At least 32 bytes. */
  entropy: Uint8Array
  /** Ms since the epoch. */
  now: number
  hostname: string
  /** 32 hex digits. */
  machineId: string
  /** For every command, over the build's defaults. Secrets come here, after the snapshot. */
  env: Record<string, string>
  network: { mac: string; address: string; prefix: number; gateway: string; nameservers: string[] } | null
  /** Make SSH host keys anew: on create, not on resume of the same sandbox. */
  fresh: boolean
  /** User and directory of commands that name none. */
  user?: string
  cwd?: string
}

export interface StartRequest extends ExecRequest {
  /** Goes on when the channel is lost; its output is kept (the last MiB) and it can be attached to. */
  detached?: boolean
}

export interface GuestExecution extends Execution {
  readonly pid: number
  /** Where in all that the command ever wrote its output begins here. */
  readonly from: number
}

export interface GuestProcess {
  pid: number
  command: string[]
  /** Ms since the epoch. */
  startedAt: number
  running: boolean
  code: number | null
}

export interface FileEntry {
  name: string
  type: 'file' | 'directory' | 'link' | 'other'
  /** Bytes. */
  size: number
  mode: number
  uid: number
  gid: number
  /** Ms since the epoch. */
  changedAt: number
  /** Where a link points. */
  target?: string
}

export interface FileEvent {
  kind: 'created' | 'changed' | 'removed' | 'moved'
  path: string
}

export interface GuestFiles {
  read(path: string, options: { signal: AbortSignal; offset?: number; length?: number }): Promise<Readable>
  /** Whole or not at all: it appears under its name when the stream has been written to its end. Makes directories. */
  write(
    path: string,
    options: { signal: AbortSignal; mode?: number; user?: string },
  ): Promise<Writable & { written: Promise<void> }>
  stat(path: string, options: { signal: AbortSignal }): Promise<FileEntry>
  list(path: string, options: { signal: AbortSignal }): Promise<FileEntry[]>
  makeDirectory(path: string, options: { signal: AbortSignal; user?: string }): Promise<void>
  move(from: string, to: string, options: { signal: AbortSignal }): Promise<void>
  /** With everything below it. */
  remove(path: string, options: { signal: AbortSignal }): Promise<void>
  watch(path: string, options: { signal: AbortSignal; recursive: boolean }): Promise<AsyncIterable<FileEvent>>
}

export interface GuestMetrics {
  /** Bytes. */
  memoryTotal: number
  memoryUsed: number
  diskTotal: number
  diskUsed: number
  cpus: number
  /** Ms of CPU used since boot, all processors. */
  cpuMs: number
  /** Ms since the epoch, the guest's clock. */
  now: number
  processes: number
}
