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
    const { size } = this.#target
    const flags = flagsOf(this.#target)
    switch (option) {
      case options.exportName:
        // There is no way to refuse: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md#option-types
        if (data.length > 0) {
          this.#state = 'ended'
          return
        }
        this.#send(Buffer.concat([encodeExport(size, flags), Buffer.alloc(this.#noZeroes ? 0 : 124)]))
        this.#state = 'done'
        return
      case options.abort:
        reply(optionReplies.ack)
        this.#state = 'ended'
        return
      case options.list:
        if (data.length > 0) return reply(optionReplies.invalid)
        reply(optionReplies.server, Buffer.alloc(4))
        return reply(optionReplies.ack)
      case options.info:
      case options.go: {
        const asked = decodeInfoOption(data)
        if (asked === undefined) return reply(optionReplies.invalid)
        if (asked.name !== '') return reply(optionReplies.unknown)
        reply(optionReplies.info, encodeExportInfo(size, flags))
        reply(optionReplies.info, encodeBlockSizeInfo(4096))
        reply(optionReplies.ack)
        if (option === options.go) this.#state = 'done'
        return
      }
      default:
        return reply(optionReplies.unsupported)
    }
  }
}

function flagsOf({ readOnly }: { readOnly: boolean }): number {
  const { hasFlags, sendFlush, sendFua, sendTrim, sendWriteZeroes } = exportFlags
  const can = hasFlags | sendFlush | sendFua | sendTrim | sendWriteZeroes
  return readOnly ? can | exportFlags.readOnly : can
}
