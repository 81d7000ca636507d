-- Asks user-service whether a request may pass. If it may, the request continues with the identity
-- in place of the key; if not, the client gets the refusal. Without an answer txn.passed is unset.
local identity = {
  'x-auth-user-id',
  'x-auth-user-email',
  'x-auth-user-email-verified',
  'x-auth-role',
  'x-auth-permissions',
  'x-auth-key-id',
  'x-auth-key-kind',
  'x-auth-factors',
  'x-auth-token',
}

-- HAProxy counts from 0, Lua from 1.
local function values(list)
  return list and table.move(list, 0, #list, 1, {}) or {}
end

local function ask(txn)
  local sent = txn.http:req_get_headers()
  local headers = {}
  for _, name in ipairs{ 'x-api-key', 'authorization', 'x-forwarded-for' } do
    headers[name] = values(sent[name])
  end
  return core.httpclient():get{
    url = 'http://user-service/v1/users/auth?' .. (txn:get_var('txn.needs') or ''),
    dst = 'abns@user-service',
    headers = headers,
  }
end

local function admit(txn, answer)
  for _, name in ipairs(identity) do
    local value = answer.headers[name]
    if value then
      txn.http:req_set_header(name, value[0])
    else
      txn.http:req_del_header(name)
    end
  end
  txn.http:req_del_header('x-api-key')
  txn.http:req_del_header('authorization')
  -- HAProxy drops a header for which tune.bufsize has no room, and says nothing.
  local sent = txn.http:req_get_headers()
  for _, name in ipairs(identity) do
    local value = answer.headers[name]
    if value and not (sent[name] and sent[name][0] == value[0]) then
      return txn:done(txn:reply{ status = 431 })
    end
  end
  txn:set_var('txn.passed', true)
end

local function refuse(txn, answer)
  local refusal = txn:reply{ status = answer.status, body = answer.body }
  refusal:add_header('content-type', 'application/json')
  for _, value in ipairs(values(answer.headers['www-authenticate'])) do
    refusal:add_header('www-authenticate', value)
  end
  txn:done(refusal)
end

core.register_action('forward-auth', { 'http-req' }, function(txn)
  local answer = ask(txn)
  if answer.status == 200 then
    admit(txn, answer)
  elseif answer.status == 401 or answer.status == 403 then
    refuse(txn, answer)
  end
end, 0)
