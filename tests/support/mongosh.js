// What examples for mongosh may use. Calls on `db` are recorded in `statements`, with their values as Extended JSON.
// Example: db.events.find({}).limit(3) becomes [["events"], ["find", [{}]], ["limit", [3]]].
const statements = [];
const UUID = (text) => ({ $uuid: text });
const ISODate = (text) => ({ $date: new Date(text).toISOString() });
const passwordPrompt = () => "prompted";
const recorder = (calls) =>
  new Proxy(() => {}, {
    get: (_, name) => (calls.push([name]), recorder(calls)),
    apply: (_, __, values) => (calls.at(-1).push(values), recorder(calls)),
  });
const db = new Proxy({}, { get: (_, name) => recorder(statements[statements.push([[name]]) - 1]) });
