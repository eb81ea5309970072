// Loaded into the embedded Supabase before its own code (`node --import`, worker/store/embedded.py).
// Its downloads come back empty under an older Node; and it must not outlive the worker that holds its stdin.
import process from "node:process";

const NODE_TOO_OLD = 86; // exit code that embedded.py knows
const CLOSING_MS = 5000; // SIGTERM closes the database; a hanging close must not keep the folder locked

if (Number(process.versions.node.split(".")[0]) < 22) process.exit(NODE_TOO_OLD);

process.stdin
  .on("end", () => {
    process.kill(process.pid, "SIGTERM");
    setTimeout(() => process.exit(1), CLOSING_MS).unref();
  })
  .on("error", () => process.exit(1))
  .resume();
process.stdin.unref?.(); // a finished `migration up` need not wait for the worker
