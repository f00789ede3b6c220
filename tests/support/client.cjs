// A client of event_service.proto as Node's users write one: loads the schema, makes a call and a stream, prints what
// came back as JSON. The second batch of the stream has a type that ends in half of a surrogate pair.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [proto, target, key] = process.argv.slice(2);
const definition = loader.loadSync("sluice/v1/event_service.proto", {
  includeDirs: [proto, `${proto}/third_party`],
  longs: String,
});
const { EventService } = grpc.loadPackageDefinition(definition).sluice.v1;
const client = new EventService(target, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("x-api-key", key);

const batch = (type) => ({ source: "node", events: [{ type, dataJson: Buffer.from('{"mark": 1}') }] });

client.IngestEvents({ batch: batch("purchase") }, metadata, (error, response) => {
  if (error) throw error;
  const outcomes = [];
  const stream = client.StreamEvents(metadata);
  stream.on("metadata", () => {
    // only now, as some clients do
    for (const [index, type] of ["signup", "likes 😀".slice(0, 7), "signup"].entries()) {
      stream.write({ sequence: index + 1, batch: batch(type) });
    }
    stream.end();
  });
  stream.on("data", (item) => outcomes.push([item.sequence, item.receipt ? "receipt" : "error"]));
  stream.on("end", () => {
    console.log(JSON.stringify({ received: response.receipt.eventsReceived, outcomes }));
    client.close();
  });
});
