// Shows the OpenAPI document. Its server is this one, wherever a proxy has put it.
const here = new URL(document.currentScript.src);
const root = new URL("../..", here).href.replace(/\/$/, "");
fetch(new URL("../openapi.json", here))
  .then((response) => response.json())
  .then((spec) =>
    SwaggerUIBundle({
      spec: { ...spec, servers: [{ url: root }] },
      dom_id: "#api",
      validatorUrl: null,
      tryItOutEnabled: true,
      defaultModelsExpandDepth: 0,
    }),
  );
