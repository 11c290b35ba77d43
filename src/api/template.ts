import { publicBuild } from '../contract/build.ts'
import { page } from '../contract/page.ts'
import { publicTemplate } from '../contract/template.ts'
import type { Control } from '../control/control.ts'
import { findNode } from '../control/find.ts'
import { findTemplate } from '../control/sandboxes/builds.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import { deleteTemplate, setAlias, setTag } from '../control/sandboxes/templates.ts'
import type { Template } from '../model/sandbox.ts'
import type { Handlers } from './handlers.ts'

type TemplateHandlers = Pick<
  Handlers,
  | 'listTemplates'
  | 'getTemplate'
  | 'deleteTemplate'
  | 'tagTemplate'
  | 'untagTemplate'
  | 'aliasTemplate'
  | 'unaliasTemplate'
  | 'buildTemplate'
>

export function templateHandlers({
  control,
  sandboxes,
}: {
  control: Control
  sandboxes: SandboxControl
}): TemplateHandlers {
  const { store } = control
  const answer = (row: Template) => ({ template: publicTemplate(row), index: store.index })
  return {
    listTemplates: ({ query }) => {
      const { rows, next } = page(store.view.all('templates'), (row) => row.name, query)
      return { templates: rows.map(publicTemplate), next, index: store.index }
    },
    getTemplate: ({ params }) => {
      const template = findTemplate(store.view, params.template)
      const builds = [...store.view.by('buildsByTemplate', template.name)].sort((a, b) => b.createdAt - a.createdAt)
      return { ...answer(template), builds: builds.map(publicBuild) }
    },
    deleteTemplate: async ({ params, caller }) => {
      await deleteTemplate(control, params.template, { by: caller.name })
    },
    tagTemplate: async ({ params: { template, tag }, body: { build }, caller }) =>
      answer(await setTag(control, template, { tag, build, by: caller.name })),
    untagTemplate: async ({ params: { template, tag }, caller }) =>
      answer(await setTag(control, template, { tag, build: null, by: caller.name })),
    aliasTemplate: async ({ params: { template, alias }, caller }) =>
      answer(await setAlias(control, template, { alias, remove: false, by: caller.name })),
    unaliasTemplate: async ({ params: { template, alias }, caller }) =>
      answer(await setAlias(control, template, { alias, remove: true, by: caller.name })),
    buildTemplate: async ({ params: { template }, body, caller }) => {
      const { context, node, ...wish } = body
      const place = node === undefined ? undefined : findNode(store.view, node).id
      const build = await sandboxes.beginBuild({ ...wish, template, node: place }, { by: caller.name })
      // Its end is seen in its row and its log.
      if (!context) void sandboxes.runBuild(build.id).catch(() => {})
      return { build: publicBuild(build), index: store.index }
    },
  }
}
