import { publicAudit } from '../contract/audit.ts'
import type { Control } from '../control/control.ts'
import type { Handlers } from './handlers.ts'

export function auditHandlers({ control }: { control: Control }): Pick<Handlers, 'listAudit'> {
  const { store } = control
  return {
    listAudit: ({ query: { after, limit } }) => {
      const rows = [...store.view.all('audit')]
        .filter(({ id }) => after === undefined || id > after)
        .sort((a, b) => (a.id < b.id ? -1 : 1))
      const shown = after === undefined ? rows.slice(-limit) : rows.slice(0, limit)
      return { audit: shown.map(publicAudit), index: store.index }
    },
  }
}
