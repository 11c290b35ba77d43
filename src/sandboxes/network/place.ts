import type { Egress } from '../../model/egress.ts'
import type { Denials } from './denials.ts'
import { compilePolicy, denyAll, type Policy } from './policy.ts'

/**
 * One sandbox as resolver and egress proxy know it: what holds for it, where they write down what they denied, and the
 * connections they carry for it, so that a new policy can end those that it denies.
 */
export interface Place {
  readonly id: string
  readonly denials: Denials
  readonly carried: Set<Carried>
  /** Lookups under way. */
  lookups: number
  policy: Policy
}

export interface Carried {
  /** Empty while it is not known, and where the address alone was judged. */
  name: string
  /** Where it leads; empty while it is not known. */
  address: string
  cut(): void
}

export function openPlace(id: string, denials: Denials, egress?: Egress): Place {
  return { id, denials, carried: new Set(), lookups: 0, policy: egress === undefined ? denyAll : compilePolicy(egress) }
}

/** Ends what the new policy denies. */
export function changePolicy(place: Place, policy: Policy): void {
  place.policy = policy
  for (const carried of place.carried) if (!holds(policy, carried)) carried.cut()
}

function holds(policy: Policy, { name, address }: Carried): boolean {
  if (address === '') return true
  return name === '' ? policy.mayReach(address) : policy.mayAsk(name) && policy.mayStandFor(address)
}
