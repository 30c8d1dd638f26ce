// What the Node programs of the client matrix share; see bed.py for the lines that they print.
const util = require("util");

exports.GONE = 6;
exports.SHORT = 3;
exports.insert = "INSERT INTO customers (id, name, email, ssn, region) VALUES";
exports.refused = "SELECT employee FROM salaries";
exports.misspelt = "SELECT nothing FROM customers";

exports.sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

exports.token = async (seconds = 600) => {
  const body = new URLSearchParams({
    grant_type: "client_credentials",
    client_id: process.env.BULLA_CLIENT,
    client_secret: "secret",
    expires_in: seconds,
  });
  const answer = await fetch(process.env.BULLA_TOKENS, { method: "POST", body });
  return (await answer.json()).access_token;
};

exports.version = (text) => console.log(`version\t${text}`);

const skip = (process.env.BULLA_SKIP ?? "").split(",");

exports.feature = async (name, run) => {
  if (skip.includes(name)) return;
  try {
    await run();
    console.log(`ok\t${name}`);
  } catch (error) {
    console.error(error);
    console.log(`no\t${name}\t${String(error).split("\n")[0]}`);
  }
};

exports.same = (found, expected) => {
  if (!util.isDeepStrictEqual(found, expected)) {
    throw new Error(`${util.inspect(found)} is not ${util.inspect(expected)}`);
  }
};

exports.fails = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it did not fail");
};
