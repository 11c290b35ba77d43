import type { Clock } from '../kit/clock.ts'
import type { Fault } from '../model/fault.ts'

/** What goes one way between two ends in memory: in order, after its delay, and not at all while the line is cut. */
export class Lane {
  readonly #line: Line
  readonly #from: End
  readonly #to: End
  readonly #clock: Clock
  readonly #window: number
  #items: { due: number; bytes: Buffer }[] = []
  #inFlight = 0
  /** Bytes since others were let run. */
  #unbroken = 0
  #ended = false
  #resetByFrom: Fault | undefined
  #resetByTo: Fault | undefined
  #onLost: () => void = () => {}
  #discarding = false
  #changed = Promise.withResolvers<void>()

  constructor({ line, from, to, clock, window = 4 * 2 ** 20 }: LaneOptions) {
    this.#line = line
    this.#from = from
    this.#to = to
    this.#clock = clock
    this.#window = window
  }

  /** Resolves when there is room for more; rejects when the sending end knows that the line is lost. */
  async send(bytes: Buffer): Promise<void> {
    this.#checkSender()
    if (this.#discarding || this.#ended) return
    this.#items.push({ due: this.#clock.monotonic() + this.#line.delayMs(), bytes })
    this.#inFlight += bytes.length
    this.#unbroken += bytes.length
    this.poke()
    if (this.#unbroken > breathBytes) {
      this.#unbroken = 0
      await new Promise((resolve) => setImmediate(resolve))
    }
    while (this.#inFlight > this.#window && !this.#discarding) {
      await this.#changed.promise
      this.#checkSender()
    }
  }

  end(): void {
    this.#ended = true
    this.poke()
  }

  /** The receiver wants no more of it, and that is in order. */
  discard(): void {
    this.#discarding = true
    this.#items = []
    this.#inFlight = 0
    this.poke()
  }

  /** One end gives the lane up; the other is told when the line lets it. */
  reset(by: 'from' | 'to', fault: Fault): void {
    if (by === 'from') this.#resetByFrom ??= fault
    else this.#resetByTo ??= fault
    this.poke()
  }

  /** The same, for whichever of the two this end is. */
  resetAt(end: End, fault: Fault): void {
    this.reset(end === this.#from ? 'from' : 'to', fault)
  }

  /** Tells the receiver of the loss even while it does not take anything. */
  onLost(listener: () => void): void {
    this.#onLost = listener
    if (this.#takerFault()) listener()
  }

  /** The next thing that arrived; undefined at the end. Rejects when the receiving end knows that the line is lost. */
  async take(): Promise<Buffer | undefined> {
    for (;;) {
      const fault = this.#takerFault()
      if (fault) throw fault
      const [item] = this.#items
      const changed = this.#changed.promise
      if (this.#line.isCut) await changed
      else if (!item && this.#ended) return undefined
      else if (!item) await changed
      else if (item.due > this.#clock.monotonic()) await this.#wait(item.due - this.#clock.monotonic(), changed)
      else {
        this.#items.shift()
        this.#inFlight -= item.bytes.length
        this.poke()
        return item.bytes
      }
    }
  }

  /** Look at the world again. */
  poke(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
    if (this.#takerFault()) this.#onLost()
  }

  async #wait(ms: number, changed: Promise<void>): Promise<void> {
    const done = new AbortController()
    await Promise.race([this.#clock.sleep(ms, { signal: done.signal }).catch(() => {}), changed])
    done.abort()
  }

  #checkSender(): void {
    const fault = this.#from.lost ?? this.#resetByFrom ?? (this.#line.isCut ? undefined : this.#resetByTo)
    if (fault) throw fault
  }

  #takerFault(): Fault | undefined {
    return this.#to.lost ?? this.#resetByTo ?? (this.#line.isCut ? undefined : this.#resetByFrom)
  }
}

/** Nothing here waits for a socket, so a busy stream must let the rest of the process run now and then. */
const breathBytes = 2 ** 20

/** One end of a connection; `lost` once it has noticed that the connection is no more. */
export interface End {
  lost: Fault | undefined
}

export interface Line {
  readonly isCut: boolean
  delayMs(): number
}

interface LaneOptions {
  line: Line
  from: End
  to: End
  clock: Clock
  window?: number
}
