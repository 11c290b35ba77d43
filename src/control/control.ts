import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import { encodeId } from '../model/ids.ts'
import type { Store } from '../store/store.ts'

/** What every action and loop of the control plane is given first. */
export interface Control {
  store: Store
  clock: Clock
  random: Random
  log: Log
}

export function newId(control: Pick<Control, 'random'>): string {
  return encodeId(control.random.bytes(10))
}
