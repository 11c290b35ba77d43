import { publicJoinToken, publicToken } from '../contract/token.ts'
import { createAccessToken, createJoinToken, revokeToken } from '../control/actions/tokens.ts'
import { type Authority, caFingerprint } from '../control/authority/authority.ts'
import { type Control, newId } from '../control/control.ts'
import type { Handlers } from './handlers.ts'

type TokenHandlers = Pick<
  Handlers,
  'listTokens' | 'createToken' | 'revokeToken' | 'listJoinTokens' | 'createJoinToken' | 'revokeJoinToken'
>

export function tokenHandlers({ control, authority }: { control: Control; authority: Authority }): TokenHandlers {
  const { view } = control.store
  const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1)
  return {
    listTokens: () => ({ tokens: [...view.all('accessTokens')].sort(byName).map(publicToken) }),
    createToken: async ({ body, caller }) => {
      const { row, token } = await createAccessToken(control, { by: caller.name, ...body })
      return { token: publicToken(row), secret: token }
    },
    revokeToken: async ({ params, caller }) => {
      await revokeToken(control, 'accessTokens', params.token, { by: caller.name })
    },
    listJoinTokens: () => ({ tokens: [...view.all('joinTokens')].sort(byName).map(publicJoinToken) }),
    createJoinToken: async ({ body, caller }) => {
      const { row, token } = await createJoinToken(control, {
        ...body,
        by: caller.name,
        name: body.name ?? `join-${newId(control).slice(0, 6)}`,
        caFingerprint: caFingerprint(authority.caCertificate),
      })
      return { token: publicJoinToken(row), secret: token }
    },
    revokeJoinToken: async ({ params, caller }) => {
      await revokeToken(control, 'joinTokens', params.token, { by: caller.name })
    },
  }
}
