import { access } from 'node:fs/promises'
import { join } from 'node:path'

export const guestAgentRemedy =
  'run guest/build in the checkout, which needs musl-tools, or name one in TUTTI_GUEST_AGENT'

/** The program that every guest runs first: as named, or as built in the checkout or shipped with the package. */
export async function findGuestAgent(
  arch: 'amd64' | 'arm64',
  env: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  const named = env['TUTTI_GUEST_AGENT']
  const places =
    named === undefined
      ? ['../../..', '../../../..'].map((up) => join(import.meta.dirname, up, 'guest/dist', `tutti-guest-${arch}`))
      : [named]
  for (const place of places) {
    if (
      await access(place).then(
        () => true,
        () => false,
      )
    )
      return place
  }
  return undefined
}
