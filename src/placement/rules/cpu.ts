import type { Ask, Room } from '../room.ts'
import type { RoomRule } from './rule.ts'

/** CPU that is reserved, not CPU that is used: a reservation is a promise to the workload already there. */
export const cpu: RoomRule = {
  name: 'cpu',
  passes: (room, ask) =>
    (ask.cpuMHz === 0 && ask.cores === 0) ||
    room.usedMHz + ask.cpuMHz + (room.usedCores + ask.cores) * room.coreMHz <= room.cores * room.coreMHz,
  refusal: (room, ask) => (ask.cores > 0 ? inCores(room, ask) : inMHz(room, ask)),
}

function inCores(room: Room, ask: Ask) {
  const needs = ask.cores + ask.cpuMHz / room.coreMHz
  const free = room.cores - room.usedCores - room.usedMHz / room.coreMHz
  const format = (cores: number) => `${rounded(cores, 2)} ${rounded(cores, 2) === 1 ? 'core' : 'cores'}`
  return lack({ needs, free, format })
}

function inMHz(room: Room, ask: Ask) {
  const { cores, coreMHz } = room
  const free = (cores - room.usedCores) * coreMHz - room.usedMHz
  return lack({ needs: ask.cpuMHz, free, format: (mhz) => `${rounded(mhz, 0)} MHz` })
}

function lack(short: { needs: number; free: number; format: (amount: number) => string }) {
  return {
    words: ['lacks CPU', 'lack CPU'] as const,
    short: { ...short, free: Math.max(0, short.free) },
    help: `add a node with ${short.format(short.needs)} free`,
  }
}

function rounded(amount: number, digits: number): number {
  return Number(amount.toFixed(digits))
}
