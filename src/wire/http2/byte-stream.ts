import type { ClientHttp2Stream, ServerHttp2Stream } from 'node:http2'
import { constants } from 'node:http2'
import { Duplex } from 'node:stream'
import type { Fault } from '../../model/fault.ts'
import { destroyWhenDone } from '../done.ts'
import { highWaterMark } from './settings.ts'

/**
 * An HTTP/2 stream as the Duplex that everybody else sees, with promises that Node's own does not make:
 * a stream that was cut off never looks like one that ended; destroying it always resets it on the other side; each
 * side may end on its own; and no error of it is ever unhandled.
 * Bytes written after the other side has ended in good order go nowhere, as with a program that does not read its input:
 * what it said before must not be lost over that.
 */
export function byteStream(inner: Http2Stream, { rest, lost, onUse = () => {} }: ByteStreamOptions): Duplex {
  let wake: (() => void) | undefined
  let readEnded = false
  let used = false
  const use = () => {
    if (used) return
    used = true
    onUse()
  }
  const outer = new Duplex({
    highWaterMark,
    // See destroyWhenDone.
    autoDestroy: false,
    read() {
      use()
      inner.resume()
    },
    write(chunk, _encoding, done) {
      use()
      if (isGone(inner)) return settle(done)
      if (inner.write(chunk)) return done()
      wake = () => {
        wake = undefined
        if (isGone(inner)) settle(done)
        else done()
      }
    },
    final(done) {
      use()
      if (isGone(inner)) return settle(done)
      inner.end()
      done()
    },
    destroy(error, done) {
      if (error !== null || !readEnded || !outer.writableFinished) resetStream(inner, constants.NGHTTP2_CANCEL)
      done(error)
    },
  })
  // A write that found the stream gone; in good order, there may still be something to read.
  const settle = (done: (error?: Error | null) => void) => {
    if (readEnded || inner.rstCode === constants.NGHTTP2_NO_ERROR) return done()
    const fault = lost()
    outer.destroy(fault)
    done(fault)
  }
  destroyWhenDone(outer)
  // Whoever uses the stream sees its error by reading or writing; nobody listening must not end the process.
  outer.on('error', () => {})
  const breakOff = () => {
    if (!readEnded || inner.rstCode !== constants.NGHTTP2_NO_ERROR) outer.destroy(lost())
    wake?.()
  }
  if (rest.length > 0) outer.push(rest)
  inner.on('data', (chunk: Buffer) => {
    if (!outer.push(chunk)) inner.pause()
  })
  inner.on('end', () => {
    if (inner.rstCode !== constants.NGHTTP2_NO_ERROR) return breakOff()
    readEnded = true
    if (!outer.destroyed) outer.push(null)
  })
  inner.on('drain', () => wake?.())
  inner.on('error', breakOff)
  inner.on('close', breakOff)
  inner.pause()
  if (inner.destroyed) breakOff()
  return outer
}

/**
 * Breaks a stream off. Node would first end it in good order and then reset it, and a reader who is quick enough would
 * take half of something for all of it; hence the `_final` that does nothing.
 */
export function resetStream(inner: Http2Stream, code: number): void {
  if (inner.destroyed || inner.closed) return
  inner._final = (done) => done()
  inner.close(code)
}

export type Http2Stream = ClientHttp2Stream | ServerHttp2Stream

export interface ByteStreamOptions {
  /** Bytes already read from the stream, to come first. */
  rest: Buffer
  /** What to say when the stream is cut off. */
  lost: () => Fault
  /** Called at the first read or write. */
  onUse?: (() => void) | undefined
}

function isGone(inner: Http2Stream): boolean {
  return inner.destroyed || inner.closed || inner.writableEnded
}
