import { publicEvent } from '../contract/event.ts'
import type { Control } from '../control/control.ts'
import { findAllocation, findNode } from '../control/find.ts'
import type { Event } from '../model/records.ts'
import type { Handlers } from './handlers.ts'

export function eventHandlers({ control }: { control: Control }): Pick<Handlers, 'listEvents'> {
  const { store } = control
  return {
    listEvents: ({ query }) => {
      const { view } = store
      const node = query.node === undefined ? undefined : findNode(view, query.node).id
      const allocation = query.allocation === undefined ? undefined : findAllocation(view, query.allocation).id
      const concerns = (event: Event) =>
        (node === undefined || event.node === node) &&
        (allocation === undefined || event.allocation === allocation) &&
        (query.sandbox === undefined || event.sandbox === query.sandbox) &&
        (query.after === undefined || event.id > query.after)
      const source = query.job === undefined ? view.all('events') : view.by('eventsByJob', query.job)
      const events = [...source].filter(concerns).sort((a, b) => (a.id < b.id ? -1 : 1))
      const shown = query.after === undefined ? events.slice(-query.limit) : events.slice(0, query.limit)
      return { events: shown.map(publicEvent), index: store.index }
    },
  }
}
