import { type CommandSpec, context, reads } from './command-spec.ts'

const template = ['<template>', 'name or alias of a template'] as const

/** Commands for what sandboxes are made of. */
export const templateCommands: readonly CommandSpec[] = [
  {
    name: 'template build',
    summary: 'build a template, and print the id of the build',
    arguments: [['[recipe]', 'a template.yaml, a Dockerfile, or a directory with one']],
    options: [
      { flags: '--name <name[:tag]>', help: 'what to call it; by default what the recipe says, or its directory' },
      { flags: '--tag <tag>', help: 'by default latest', many: true },
      { flags: '--alias <name>', help: 'another name of the template', many: true },
      { flags: '--image <image>', help: 'just this image, such as debian:12' },
      { flags: '--from <template>', help: 'begin from this template instead of what the recipe says' },
      { flags: '--cpus <count>', help: 'processors of its machine' },
      { flags: '--memory <size>', help: 'memory of its machine, such as 512MiB' },
      { flags: '--disk <size>', help: 'its disk, such as 4GiB' },
      { flags: '--build-arg <key=value>', help: 'for ARG of a Dockerfile', many: true },
      { flags: '--secret <id=ID,src=FILE>', help: 'for RUN --mount=type=secret; or id=ID,env=NAME', many: true },
      { flags: '--whole-context', help: 'send all of the build context, for images whose ONBUILD copies' },
      { flags: '--registry-user <user>', help: 'for an image in a registry that asks who one is' },
      { flags: '--registry-password-file <file>', help: '"-" is standard input; by default TUTTI_REGISTRY_PASSWORD' },
      { flags: '--target <stage>', help: 'the stage of a Dockerfile to build; by default the last' },
      { flags: '--no-cache', help: 'do every step anew' },
      { flags: '--node <node>', help: 'build it there' },
      { flags: '-d, --detach', help: 'do not wait; "tutti template logs" says how far it is' },
      ...reads,
    ],
    completes: 'files',
    load: () => import('./commands/template-build.ts'),
  },
  {
    name: 'template list',
    summary: 'list templates',
    options: reads,
    load: () => import('./commands/template-list.ts'),
  },
  {
    name: 'template info',
    summary: 'show a template with its builds',
    arguments: [template],
    options: reads,
    completes: 'templates',
    load: () => import('./commands/template-info.ts'),
  },
  {
    name: 'template tag',
    summary: 'have tags lead to a build',
    arguments: [
      ['<build>', 'the id of a build, or a template with a tag; with --remove the first of the tags'],
      ['[names...]', 'NAME:TAG'],
    ],
    options: [{ flags: '--remove', help: 'take the tags away; the build stays' }, context],
    completes: 'templates',
    load: () => import('./commands/template-tag.ts'),
  },
  {
    name: 'template alias',
    summary: 'give a template other names beside its own',
    arguments: [template, ['<aliases...>', 'other names']],
    options: [{ flags: '--remove', help: 'take them away' }, context],
    completes: 'templates',
    load: () => import('./commands/template-alias.ts'),
  },
  {
    name: 'template delete',
    summary: 'delete templates with their builds; sandboxes that run go on',
    arguments: [['<templates...>', 'names; with :TAG, or ids of builds, only those builds']],
    options: [context],
    completes: 'templates',
    load: () => import('./commands/template-delete.ts'),
  },
  {
    name: 'template logs',
    summary: 'print what a build said',
    arguments: [['<build>', 'a template, with a tag, or the id of a build']],
    options: [{ flags: '-f, --follow', help: 'go on until it is over' }, context],
    completes: 'templates',
    load: () => import('./commands/template-logs.ts'),
  },
]
