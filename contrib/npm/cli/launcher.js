#!/usr/bin/env node
// Runs the program of the package for this system, with the same arguments,
// environment and standard streams. Node never reads descriptor 0, which has the
// key: process.stdin must not be touched here.
"use strict";

const path = require("node:path");

const name = "responses-api-proxy";
const system = `@responses-api-proxy/${process.platform}-${process.arch}`;

// findProgram returns the program's path, or ends the process with a hint.
function findProgram() {
  try {
    const dir = path.dirname(require.resolve(`${system}/package.json`));
    return path.join(dir, process.platform === "win32" ? `${name}.exe` : name);
  } catch {
    console.error(`${name}: the package ${system} is not installed`);
    console.error("install it beside this one; npm leaves it out with --omit=optional, and where there is none for the system");
    process.exit(1);
  }
}

// hasTerminal reports whether a terminal sends SIGINT to the program as well.
function hasTerminal() {
  try {
    require("node:fs").closeSync(require("node:fs").openSync("/dev/tty", "r"));
    return true;
  } catch {
    return false;
  }
}

// supervise starts the program, forwards signals, and ends as it ends.
function supervise(program, args) {
  const child = require("node:child_process").spawn(program, args, { stdio: "inherit", argv0: name });
  const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"];
  for (const signal of process.platform === "win32" ? ["SIGINT", "SIGBREAK"] : signals) {
    // A console of Windows, as a terminal, sends its own to both. A second SIGINT would cut running requests.
    const sent = process.platform === "win32" || (signal === "SIGINT" && hasTerminal());
    process.on(signal, () => sent || child.kill(signal));
  }
  child.on("error", (err) => {
    console.error(`${name}: cannot run ${program}: ${err.message}`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

const program = findProgram();
const args = process.argv.slice(2);
if (process.platform !== "win32" && process.execve) {
  // Node 22.15 and later: the program takes this process over.
  process.execve(program, [name, ...args]);
}
supervise(program, args);
