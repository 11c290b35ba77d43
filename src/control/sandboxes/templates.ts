import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { Template } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import type { Control } from '../control.ts'
import { addAudit, addEvent } from '../marks.ts'
import { findBuild, findTemplate, templateOf } from './builds.ts'

/** Where a build is to be found: `template:tag`. */
export interface TagName {
  template: string
  tag: string
}

/** Throws when the name belongs to something else. */
export function checkTag(tx: Tx, { template }: TagName): void {
  const holder = templateOf(tx, template)
  if (holder && holder.name !== template)
    throw new Fault('conflict', `"${template}" is an alias of template "${holder.name}"; use that name, or another`)
}

/** The tag leads to this build from now on; the template comes into being with its first. */
export function putTag(tx: Tx, { template, tag }: TagName, build: BuildId): Template {
  checkTag(tx, { template, tag })
  const known = tx.get('templates', template)
  const next: Template = {
    name: template,
    tags: { ...known?.tags, [tag]: build },
    aliases: known?.aliases ?? [],
    createdAt: known?.createdAt ?? tx.now,
    changedAt: tx.now,
  }
  tx.put('templates', next)
  const row = tx.get('builds', build)
  if (row && row.template === null) tx.put('builds', { ...row, template, changedAt: tx.now })
  return next
}

/** Throws when the name belongs to something else. */
export function checkAlias(tx: Tx, { template, alias }: AliasName): void {
  const holder = templateOf(tx, alias)
  if (alias === template || (holder && holder.name !== template))
    throw new Fault('conflict', `"${alias}" is template "${holder?.name ?? template}" already`)
}

/** Gives a template that is there another name; nothing when that belongs to something else. */
export function putAlias(tx: Tx, { template, alias }: AliasName): Template | undefined {
  const row = tx.get('templates', template)
  const holder = templateOf(tx, alias)
  if (!row || (holder && holder.name !== template)) return undefined
  if (row.aliases.includes(alias)) return row
  const next = { ...row, aliases: [...row.aliases, alias], changedAt: tx.now }
  tx.put('templates', next)
  return next
}

export interface AliasName {
  template: string
  alias: string
}

export async function setTag(
  control: Control,
  reference: string,
  { tag, build, by }: { tag: string; build: string | null; by: string },
): Promise<Template> {
  const { result } = await control.store.write((tx) => {
    const template = findTemplate(tx, reference)
    addAudit(tx, { by, action: 'template.tag', subject: `${template.name}:${tag}` })
    if (build !== null) {
      const row = findBuild(tx, build)
      if (row.status !== 'ready') throw new Fault('conflict', `build ${row.id} is ${row.status} and cannot be tagged`)
      return putTag(tx, { template: template.name, tag }, row.id)
    }
    const { [tag]: gone, ...tags } = template.tags
    if (gone === undefined) throw new Fault('not_found', `template "${template.name}" has no tag "${tag}"`)
    const next = { ...template, tags, changedAt: tx.now }
    tx.put('templates', next)
    return next
  })
  return result
}

export async function setAlias(
  control: Control,
  reference: string,
  { alias, remove, by }: { alias: string; remove: boolean; by: string },
): Promise<Template> {
  const { result } = await control.store.write((tx) => {
    const template = findTemplate(tx, reference)
    const has = template.aliases.includes(alias)
    if (remove && !has) throw new Fault('not_found', `template "${template.name}" has no alias "${alias}"`)
    if (!remove) checkAlias(tx, { template: template.name, alias })
    if (remove !== has) return template
    addAudit(tx, { by, action: 'template.alias', subject: `${template.name} ${alias}` })
    if (!remove) return putAlias(tx, { template: template.name, alias }) ?? template
    const next = { ...template, aliases: template.aliases.filter((each) => each !== alias), changedAt: tx.now }
    tx.put('templates', next)
    return next
  })
  return result
}

/** Removes the name and every build made under it. Sandboxes that run from one of them go on. */
export async function deleteTemplate(control: Control, reference: string, { by }: { by: string }): Promise<void> {
  await control.store.write((tx) => {
    const template = findTemplate(tx, reference)
    for (const build of [...tx.by('buildsByTemplate', template.name)]) putDeleting(tx, build.id)
    tx.delete('templates', template.name)
    addEvent(tx, {
      level: 'info',
      kind: 'template.deleted',
      message: `template "${template.name}" was deleted by ${by}`,
    })
    addAudit(tx, { by, action: 'template.delete', subject: template.name })
  })
}

/** Removes one build, and the tags that lead to it. */
export async function deleteBuild(control: Control, reference: string, { by }: { by: string }): Promise<void> {
  await control.store.write((tx) => {
    const build = findBuild(tx, reference)
    for (const sandbox of tx.by('sandboxesByPausedBuild', build.id)) {
      throw new Fault('conflict', `sandbox ${sandbox.id} is paused in build ${build.id}; kill it first`)
    }
    putDeleting(tx, build.id)
    for (const template of [...tx.all('templates')]) {
      const tags = Object.fromEntries(Object.entries(template.tags).filter(([, id]) => id !== build.id))
      if (Object.keys(tags).length < Object.keys(template.tags).length)
        tx.put('templates', { ...template, tags, changedAt: tx.now })
    }
    addAudit(tx, { by, action: 'build.delete', subject: build.id })
  })
}

/** Its nodes are told by a loop, so that it is done in the end whatever dies in between. */
function putDeleting(tx: Tx, id: BuildId): void {
  const build = tx.get('builds', id)
  if (build && build.status !== 'deleting') tx.put('builds', { ...build, status: 'deleting', changedAt: tx.now })
}
