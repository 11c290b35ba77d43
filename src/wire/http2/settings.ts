import type { Settings } from 'node:http2'

/**
 * How both ends set up HTTP/2. Nothing is pushed; headers are tiny, so little room is given to them.
 *
 * The windows: a stream may have this much on its way before its reader takes it, which bounds both what a slow reader
 * costs in memory and how fast one stream can be over a long line (4 MiB at 40 ms are 100 MB/s). Node gives back the
 * connection's own window as bytes arrive, so it must only be large enough that one bulk stream never fills it: then a
 * slow reader holds up its own stream and no other, and the conversation always finds room.
 */
export const streamWindowBytes = 4 * 2 ** 20
export const connectionWindowBytes = 64 * 2 ** 20

export const sessionSettings: Settings = {
  enablePush: false,
  initialWindowSize: streamWindowBytes,
  maxFrameSize: 64 * 1024,
  maxConcurrentStreams: 4096,
  maxHeaderListSize: 16 * 1024,
}

/** Options for either end. Memory is in MB and guards against a peer that opens streams and never reads. */
export const sessionOptions = {
  settings: sessionSettings,
  maxSessionMemory: 1024,
  maxHeaderListPairs: 32,
  maxOutstandingPings: 10,
  maxSettings: 32,
  peerMaxConcurrentStreams: 4096,
}

/** What a service stream is waiting in our own memory at most before its writer is told to wait. */
export const highWaterMark = 256 * 1024
/** A service request or answer is at most this long, in bytes. */
export const maxHeadBytes = 4 * 2 ** 20
/** TCP notices a dead peer only when it is asked to look. */
export const tcpKeepAliveMs = 15_000

export const conversationPath = '/conversation'
export const servicePrefix = '/service/'
