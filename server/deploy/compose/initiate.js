// Makes a replica set of MEMBERS with the users `admin` and `sluice`, which have the password in PASSWORD_FILE.
// Runs with mongosh on the host of the first member: MongoDB lets only that host make the first user.
// It may be run again, also after it was cut short.
const password = require("fs").readFileSync(process.env.PASSWORD_FILE, "utf8").trim();
const members = process.env.MEMBERS.split(",").map((host, number) => ({ _id: number, host }));
const admin = db.getSiblingDB("admin");

const ignoring = (codeName, call) => {
  try {
    call();
  } catch (error) {
    if (error.codeName !== codeName) throw error;
  }
};

const logIn = () => admin.auth("admin", password);

const hasUsers = () => {
  try {
    return logIn().ok === 1;
  } catch (error) {
    if (error.codeName !== "AuthenticationFailed") throw error;
    return false;
  }
};

if (!hasUsers()) {
  ignoring("AlreadyInitialized", () => rs.initiate({ _id: "sluice", members }));
  while (!admin.hello().isWritablePrimary) sleep(200);
  admin.createUser({ user: "admin", pwd: password, roles: ["root"] });
  logIn();
}
const roles = [{ role: "readWrite", db: "sluice" }];
if (admin.getUser("sluice") === null) admin.createUser({ user: "sluice", pwd: password, roles });
