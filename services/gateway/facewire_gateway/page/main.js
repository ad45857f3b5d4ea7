// Puts the parts of the page together.
import { currentKey, useKey } from "./api.js";
import { $, onSubmit, showProblem } from "./dom.js";
import { listPeople, startPeople } from "./people.js";
import { followResults } from "./results.js";
import { startTry } from "./try.js";

async function load() {
  followResults();
  await listPeople();
}

onSubmit($("key-form"), async () => {
  useKey($("key").value.trim());
  await load();
});
$("key").value = currentKey();
startTry();
startPeople();
load().catch(showProblem);
