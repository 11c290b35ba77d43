import type { ByteQueue } from './bytes.ts'
import type { NbdExport } from './export.ts'
import {
  decodeInfoOption,
  encodeBlockSizeInfo,
  encodeExport,
  encodeExportInfo,
  encodeOptionReply,
  exportFlags,
  fixedNewstyle,
  maximumOption,
  noZeroes,
  optionMagic,
  optionReplies,
  options,
} from './protocol.ts'

export type HandshakeState = 'flags' | 'options' | 'done' | 'ended'

/**
 * The server's side of the handshake, from the client's flags to the first request, over whatever bytes have come: `advance`
 * until it says that it needs more. One export, which has the empty name.
 */
export class Handshake {
  #state: HandshakeState = 'flags'
  #noZeroes = false
  readonly #target: Pick<NbdExport, 'size' | 'readOnly'>
  readonly #send: (bytes: Buffer) => void

  constructor(target: Pick<NbdExport, 'size' | 'readOnly'>, send: (bytes: Buffer) => void) {
    this.#target = target
    this.#send = send
  }

  /** Takes what is there; returns when more is needed, or the handshake is `done` or `ended`. */
  advance(bytes: ByteQueue): HandshakeState {
    while (this.#state === 'flags' || this.#state === 'options') {
      if (!(this.#state === 'flags' ? this.#takeFlags(bytes) : this.#takeOption(bytes))) break
    }
    return this.#state
  }

  #takeFlags(bytes: ByteQueue): boolean {
    if (bytes.length < 4) return false
    const flags = bytes.take(4).readUInt32BE()
    this.#noZeroes = (flags & noZeroes) !== 0
    this.#state = (flags & ~(fixedNewstyle | noZeroes)) === 0 ? 'options' : 'ended'
    return true
  }

  #header: { option: number; length: number } | undefined

  #takeOption(bytes: ByteQueue): boolean {
    if (this.#header === undefined) {
      if (bytes.length < 16) return false
      const header = bytes.take(16)
      const length = header.readUInt32BE(12)
      if (header.readBigUInt64BE(0) !== optionMagic || length > maximumOption) {
        this.#state = 'ended'
        return true
      }
      this.#header = { option: header.readUInt32BE(8), length }
    }
    const { option, length } = this.#header
    if (bytes.length < length) return false
    this.#header = undefined
    this.#answer(option, length === 0 ? Buffer.alloc(0) : bytes.take(length))
    return true
  }

  #answer(option: number, data: Buffer): void {
    const reply = (kind: number, payload?: Buffer) => this.#send(encodeOptionReply(option, kind, payload))
    if (option === options.exportName) this.#takeExportName(data)
    else if (option === options.abort) {
      reply(optionReplies.ack)
      this.#state = 'ended'
    } else if (option === options.list) {
      if (data.length > 0) reply(optionReplies.invalid)
      else {
        reply(optionReplies.server, Buffer.alloc(4))
        reply(optionReplies.ack)
      }
    } else if (option === options.info || option === options.go) {
      const asked = decodeInfoOption(data)
      if (asked?.name !== '') {
        reply(asked === undefined ? optionReplies.invalid : optionReplies.unknown)
        return
      }
      reply(optionReplies.info, encodeExportInfo(this.#target.size, flagsOf(this.#target)))
      reply(optionReplies.info, encodeBlockSizeInfo(4096))
      reply(optionReplies.ack)
      if (option === options.go) this.#state = 'done'
    } else reply(optionReplies.unsupported)
  }

  /** There is no way to refuse but to hang up. */
  #takeExportName(name: Buffer): void {
    this.#state = name.length > 0 ? 'ended' : 'done'
    if (this.#state === 'ended') return
    const shape = encodeExport(this.#target.size, flagsOf(this.#target))
    this.#send(Buffer.concat([shape, Buffer.alloc(this.#noZeroes ? 0 : 124)]))
  }
}

function flagsOf({ readOnly }: { readOnly: boolean }): number {
  const { hasFlags, sendFlush, sendFua, sendTrim, sendWriteZeroes } = exportFlags
  const can = hasFlags | sendFlush | sendFua | sendTrim | sendWriteZeroes
  return readOnly ? can | exportFlags.readOnly : can
}
