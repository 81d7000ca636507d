#!/usr/bin/env node
import { load } from './load.js'

// npm may be killed while the rest is read.
process.env.npm_pid = String(process.ppid)
load('main.ts')
