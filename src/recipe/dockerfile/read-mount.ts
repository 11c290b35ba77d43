import { parseSize } from '../../model/quantity.ts'
import { formatParts, isKnown, type Part } from '../expand.ts'
import type { Mount } from '../recipe.ts'
import type { Position } from './places.ts'
import { readOrigin } from './read-origin.ts'
import type { Reading } from './reading.ts'

const common = ['type', 'target', 'dst', 'destination']
const readOnly = ['ro', 'readonly', 'rw', 'readwrite']
const owned = ['id', 'mode', 'uid', 'gid']

/** What each kind may say; of names with the same meaning any. */
const known: Readonly<Record<Mount['kind'], readonly string[]>> = {
  bind: [...common, ...readOnly, 'source', 'src', 'from'],
  cache: [...common, ...readOnly, ...owned, 'sharing', 'source', 'src', 'from'],
  tmpfs: [...common, 'size'],
  secret: [...common, ...owned, 'required', 'env'],
}

/** `RUN --mount=type=…,key=value,…`; undefined for one that is wrong, which is then among the mistakes. */
export function readMount(value: readonly Part[], position: Position, reading: Reading): Mount | undefined {
  const wrong = (message: string) => {
    reading.mistakes.add(position, `--mount: ${message}`)
    return undefined
  }
  const said = new Map<string, string>()
  for (const field of formatParts(value).split(',')) {
    const [, key = '', text = 'true'] = /^([^=]*)(?:=(.*))?$/s.exec(field) ?? []
    said.set(key.trim().toLowerCase(), text)
  }
  const kind = said.get('type') ?? 'bind'
  if (kind === 'ssh')
    return wrong('type=ssh is not supported, since no agent for keys is reached here; give a key as a secret')
  if (!isKind(kind)) return wrong(`there is no type "${kind}"; there are bind, cache, tmpfs and secret`)
  const strange = [...said.keys()].find((key) => !known[kind].includes(key))
  if (strange !== undefined) return wrong(`type=${kind} has no "${strange}"; it has ${known[kind].join(', ')}`)
  const to = said.get('target') ?? said.get('dst') ?? said.get('destination')
  const source = said.get('source') ?? said.get('src')
  const on = (...keys: string[]) => keys.some((key) => said.get(key) === 'true')
  const bits = said.get('mode')
  if (bits !== undefined && !/^0?[0-7]{3,4}$/.test(bits)) return wrong(`"mode" is octal, such as 0755, not "${bits}"`)
  const [uid, gid] = [said.get('uid') ?? '0', said.get('gid') ?? '0']
  if (!/^\d{1,9}$/.test(uid) || !/^\d{1,9}$/.test(gid)) return wrong('"uid" and "gid" are numbers')
  const owner = {
    uid: Number(uid),
    gid: Number(gid),
    ...(bits === undefined ? {} : { mode: Number.parseInt(bits, 8) }),
  }
  switch (kind) {
    case 'secret': {
      const env = said.get('env')
      const id = said.get('id') ?? to?.split('/').at(-1) ?? env
      if (!id || id.length > 255) return wrong('a secret needs an "id", as --secret gives it')
      const place = to ?? (env === undefined ? `/run/secrets/${id}` : undefined)
      const named = { ...(place === undefined ? {} : { to: place }), ...(env === undefined ? {} : { env }) }
      return { kind, id, ...named, required: on('required'), ...owner }
    }
    case 'tmpfs': {
      if (!to) return wrong('type=tmpfs needs a "target"')
      const size = said.get('size')
      const bytes = size === undefined ? undefined : readSize(size)
      if (size !== undefined && !bytes) return wrong(`"size" is a size such as 64MiB, not "${size}"`)
      return { kind, to, ...(bytes === undefined ? {} : { bytes }) }
    }
    case 'cache': {
      if (!to) return wrong('type=cache needs a "target"')
      if (said.has('from') || source !== undefined)
        return wrong('a cache begins empty here, and has no "from" and "source"')
      const sharing = said.get('sharing') ?? 'shared'
      if (!['shared', 'private', 'locked'].includes(sharing)) return wrong('"sharing" is shared, private or locked')
      return { kind, to, id: (said.get('id') ?? to).slice(0, 1000), readOnly: on('ro', 'readonly'), ...owner }
    }
    case 'bind': {
      if (!to) return wrong('type=bind needs a "target"')
      const from = said.get('from')
      if (from !== undefined && !isKnown(value)) return wrong('"from" needs a stage or an image that is known here')
      return {
        ...{ kind, to, source: source ?? '', writable: on('rw', 'readwrite') },
        ...(from === undefined ? {} : { from: readOrigin(from, position, reading) }),
      }
    }
  }
}

/** Docker's `64m` is `64MiB`. */
function readSize(text: string): number | undefined {
  const [, number, unit = ''] = /^(\d+)(?:([kmgt])i?b?)?$/i.exec(text) ?? []
  if (number === undefined) return undefined
  return unit === '' ? Number(number) : parseSize(`${number}${unit.toUpperCase()}iB`)
}

function isKind(text: string): text is Mount['kind'] {
  return Object.hasOwn(known, text)
}
